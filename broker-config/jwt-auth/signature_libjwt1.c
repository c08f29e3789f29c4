#include <errno.h>
#include <stdlib.h>

#include "signature.h"

static jwt_alg_t algorithm_of(const struct key *key)
{
	return key->algorithm == ES384 ? JWT_ALG_ES384 : JWT_ALG_HS384;
}

bool signature_read(const char *text, const struct key *key, void (*read)(jwt_t *token, void *context), void *context)
{
	jwt_t *token = NULL;
	/* The sender chose the header: its algorithm must be the key's. */
	bool good = jwt_decode(&token, text, key->bytes, (int)key->length) == 0 && token != NULL &&
	            jwt_get_alg(token) == algorithm_of(key);

	if (good) {
		read(token, context);
	}
	jwt_free(token);
	return good;
}

const char *signature_claim_text(jwt_t *token, const char *name)
{
	return jwt_get_grant(token, name);
}

/* Parses the claim's JSON, since jwt_get_grant_int returns 0 for a claim that is not an integer. */
bool signature_claim_time(jwt_t *token, const char *name, time_t *out)
{
	char *json = jwt_get_grants_json(token, name), *end = NULL;

	errno = 0;
	*out = json == NULL ? 0 : (time_t)strtoll(json, &end, 10);
	bool good = json != NULL && errno == 0 && end != json && *end == '\0';

	free(json);
	return good;
}

char *signature_claim_array(jwt_t *token, const char *name)
{
	return jwt_get_grants_json(token, name);
}

bool signature_has_parameter(jwt_t *token, const char *name)
{
	char *json = jwt_get_headers_json(token, name);
	bool found = json != NULL;

	free(json);
	return found;
}
