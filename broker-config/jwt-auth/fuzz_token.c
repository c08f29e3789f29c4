/* Fuzzes what reads tokens and keys. The claims are signed here, so that what reads them is reached. */
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

static void check_signed(const char *json, const struct keyring *keyring)
{
	jwt_t *jwt = NULL;
	char *token;

	if (jwt_new(&jwt) == 0 && jwt_add_grants_json(jwt, json) == 0 &&
	    jwt_set_alg(jwt, JWT_ALG_HS384, (const unsigned char *)SECRET, sizeof SECRET - 1) == 0) {
		token = jwt_encode_str(jwt);
		if (token != NULL) {
			check(token, keyring);
		}
		free(token);
	}
	jwt_free(jwt);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct keyring keyring = {.count = 1};
	struct key key;
	const char *why;
	char *text = malloc(size + 1);

	if (text == NULL || !key_parse((const unsigned char *)SECRET, sizeof SECRET - 1, &keyring.keys[0], &why)) {
		abort();
	}
	memcpy(text, data, size);
	text[size] = '\0';
	check(text, &keyring);
	check_signed(text, &keyring);
	if (key_parse(data, size, &key, &why)) {
		struct keyring other = {.keys = {key}, .count = 1};

		check(text, &other);
		keyring_free(&other);
	}
	keyring_free(&keyring);
	free(text);
	return 0;
}
