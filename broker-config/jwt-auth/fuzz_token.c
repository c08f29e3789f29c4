/* Fuzzes the parsers of tokens and keys. Signs the inputs as claims, too, so that they pass the signature check. */
#include <jwt.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "keys.h"
#include "token.h"

#define NOW 1800000000

static const char SECRET[] = "ssssssssssssssssssssssssssssssssssssssssssssssss";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const char *token, const struct keyring *keyring)
{
	struct claims claims;

	if (token_check(token, keyring, NOW, &claims) == NULL) {
		if (claims.expires <= NOW || claims.name == NULL) {
			abort();
		}
		claims_free(&claims);
	}
}

#if LIBJWT >= 3
#define SECRET_JWK "{\"kty\":\"oct\",\"k\":\"c3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nz\"}"

/* Returns a token with these claims, or NULL if they are not a JSON object. */
static char *sign(char *json)
{
	jwt_value_t claims;
	jwk_set_t *set = jwks_create(SECRET_JWK);
	jwt_builder_t *builder = jwt_builder_new();
	char *token = NULL;

	jwt_set_SET_JSON(&claims, NULL, json);
	if (jwt_builder_setkey(builder, JWT_ALG_HS384, jwks_item_get(set, 0)) == 0 &&
	    jwt_builder_claim_set(builder, &claims) == JWT_VALUE_ERR_NONE) {
		token = jwt_builder_generate(builder);
	}
	jwt_builder_free(builder);
	jwks_free(set);
	return token;
}
#else
static char *sign(char *json)
{
	jwt_t *jwt = NULL;
	char *token = NULL;

	if (jwt_new(&jwt) == 0 && jwt_add_grants_json(jwt, json) == 0 &&
	    jwt_set_alg(jwt, JWT_ALG_HS384, (const unsigned char *)SECRET, sizeof SECRET - 1) == 0) {
		token = jwt_encode_str(jwt);
	}
	jwt_free(jwt);
	return token;
}
#endif

static void check_signed(char *json, const struct keyring *keyring)
{
	char *token = sign(json);

	if (token != NULL) {
		check(token, keyring);
	}
	free(token);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct keyring keyring = {.count = 1};
	struct key key;
	const char *reason;
	char *text = malloc(size + 1);

	if (text == NULL || !key_parse((const unsigned char *)SECRET, sizeof SECRET - 1, &keyring.keys[0], &reason)) {
		abort();
	}
	memcpy(text, data, size);
	text[size] = '\0';
	check(text, &keyring);
	check_signed(text, &keyring);
	if (key_parse(data, size, &key, &reason)) {
		struct keyring other = {.keys = {key}, .count = 1};

		check(text, &other);
		keyring_free(&other);
	}
	keyring_free(&keyring);
	free(text);
	return 0;
}
