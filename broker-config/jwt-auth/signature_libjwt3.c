#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "signature.h"

#define MAX_JWK_BYTES 32768 /* larger than a key file in base64 */

struct reader {
	void (*read)(jwt_t *token, void *context);
	void *context;
};

/* --- the key in libjwt's format: a JWK (RFC 7517) ------------------------------------------------------- */

/* Appends base64url without padding (RFC 7515, 2). Returns the end. */
static char *append_base64url(char *out, const unsigned char *bytes, size_t length)
{
	static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

	for (size_t i = 0; i < length; i += 3) {
		unsigned int bits = (unsigned int)bytes[i] << 16 | (i + 1 < length ? (unsigned int)bytes[i + 1] << 8 : 0) |
		                    (i + 2 < length ? bytes[i + 2] : 0u);

		for (size_t digit = 0; digit < 4 && digit <= length - i; digit++) {
			*out++ = ALPHABET[bits >> (18 - 6 * digit) & 63];
		}
	}
	*out = '\0';
	return out;
}

static void print_jwk(const struct key *key, char *out)
{
	unsigned char point[P384_POINT_BYTES];
	const size_t half = sizeof point / 2;

	if (key->algorithm == HS384) {
		out = append_base64url(stpcpy(out, "{\"kty\":\"oct\",\"k\":\""), key->bytes, key->length);
	} else {
		key_point(key, point);
		out = append_base64url(stpcpy(out, "{\"kty\":\"EC\",\"crv\":\"P-384\",\"x\":\""), point, half);
		out = append_base64url(stpcpy(out, "\",\"y\":\""), point + half, half);
	}
	strcpy(out, "\"}");
}

static jwk_set_t *jwk_set_of(const struct key *key)
{
	char text[MAX_JWK_BYTES];

	print_jwk(key, text);
	jwk_set_t *set = jwks_create(text);

	explicit_bzero(text, sizeof text);
	return set;
}

/* --- verification --------------------------------------------------------------------------------------- */

static int call_reader(jwt_t *token, jwt_config_t *config)
{
	const struct reader *reader = config->ctx;

	reader->read(token, reader->context);
	return 0;
}

/* libjwt's checks of the times are disabled: the caller checks them, by a clock of its own. */
static bool prepare(jwt_checker_t *checker, const struct key *key, const jwk_set_t *set)
{
	const jwk_item_t *item = jwks_item_get(set, 0);
	jwt_alg_t algorithm = key->algorithm == ES384 ? JWT_ALG_ES384 : JWT_ALG_HS384;

	return item != NULL && !jwks_item_error(item) && jwt_checker_setkey(checker, algorithm, item) == 0 &&
	       jwt_checker_time_leeway(checker, JWT_CLAIM_EXP, -1) == 0 &&
	       jwt_checker_time_leeway(checker, JWT_CLAIM_NBF, -1) == 0;
}

bool signature_read(const char *text, const struct key *key, void (*read)(jwt_t *token, void *context), void *context)
{
	struct reader reader = {read, context};
	jwk_set_t *set = jwk_set_of(key);
	jwt_checker_t *checker = jwt_checker_new();
	/* Claims can be read only in a callback, which libjwt calls before it has verified the signature. Hence two
	 * verifications, the first without the callback. */
	bool good = set != NULL && checker != NULL && prepare(checker, key, set) && jwt_checker_verify(checker, text) == 0 &&
	            jwt_checker_setcb(checker, call_reader, &reader) == 0 && jwt_checker_verify(checker, text) == 0;

	jwt_checker_free(checker);
	jwks_free(set);
	return good;
}

const char *signature_claim_text(jwt_t *token, const char *name)
{
	jwt_value_t value;

	jwt_set_GET_STR(&value, name);
	return jwt_claim_get(token, &value) == JWT_VALUE_ERR_NONE ? value.str_val : NULL;
}

bool signature_claim_time(jwt_t *token, const char *name, time_t *out)
{
	jwt_value_t value;

	jwt_set_GET_INT(&value, name);
	bool good = jwt_claim_get(token, &value) == JWT_VALUE_ERR_NONE;

	*out = good ? (time_t)value.int_val : 0;
	return good;
}

char *signature_claim_array(jwt_t *token, const char *name)
{
	jwt_value_t value;

	jwt_set_GET_JSON(&value, name);
	return jwt_claim_get(token, &value) == JWT_VALUE_ERR_NONE ? value.json_val : NULL;
}

bool signature_has_parameter(jwt_t *token, const char *name)
{
	jwt_value_t value;

	jwt_set_GET_STR(&value, name);
	return jwt_header_get(token, &value) != JWT_VALUE_ERR_NOEXIST;
}
