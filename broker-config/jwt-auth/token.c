#include "token.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "identity.h"

/* A client that speaks MQTT 3.1.1 is not told when a publish of its is denied. That is bearable for people and
 * exporters with mosquitto_sub and mosquitto_pub, but a monitor would wait for its acknowledgement for ever. */
static bool role_may_use_old_protocol(const char *role)
{
	static const char *const ROLES[] = {"admin", "exporter", "observer", "server"};

	for (size_t i = 0; i < sizeof ROLES / sizeof *ROLES; i++) {
		if (strcmp(role, ROLES[i]) == 0) {
			return true;
		}
	}
	return false;
}

/* The token when one of the keys has signed it with the key's own algorithm, else NULL. */
static jwt_t *decode(const char *token, const struct keyring *keyring)
{
	for (size_t i = 0; i < keyring->count; i++) {
		const struct key *key = &keyring->keys[i];
		jwt_t *jwt = NULL;

		if (jwt_decode(&jwt, token, key->bytes, (int)key->length) == 0 && jwt != NULL) {
			/* The header is the sender's: what it names must be what the key is for. */
			if (jwt_get_alg(jwt) == key->algorithm) {
				return jwt;
			}
			jwt_free(jwt);
		}
	}
	return NULL;
}

/* Reads the claim's JSON: jwt_get_grant_int takes 0 for what is no integer (libjwt 1.10). */
static bool read_time(jwt_t *jwt, const char *claim, time_t *out)
{
	char *json = jwt_get_grants_json(jwt, claim), *end = NULL;

	errno = 0;
	*out = json == NULL ? 0 : (time_t)strtoll(json, &end, 10);
	bool good = json != NULL && errno == 0 && end != json && *end == '\0';

	free(json);
	return good;
}

static bool read_filters(jwt_t *jwt, const char *claim, struct filters *out)
{
	char *json = jwt_get_grants_json(jwt, claim);
	bool good = json != NULL && filters_parse(json, out);

	free(json);
	return good;
}

static bool has_critical_extension(jwt_t *jwt)
{
	char *json = jwt_get_headers_json(jwt, "crit");
	bool found = json != NULL;

	free(json);
	return found;
}

static const char *read_claims(jwt_t *jwt, time_t now, struct claims *out)
{
	const char *name = jwt_get_grant(jwt, "sub");
	const char *role = jwt_get_grant(jwt, "role");
	time_t not_before;

	if (has_critical_extension(jwt)) {
		return "the token has a critical extension that is not known here";
	}
	if (name == NULL || !identity_name_is_valid(name)) {
		return "claim sub is missing or no name";
	}
	if (role == NULL) {
		return "claim role is missing or no string";
	}
	if (!read_time(jwt, "exp", &out->expires)) {
		return "claim exp is missing or no integer";
	}
	if (!read_time(jwt, "nbf", &not_before)) {
		return "claim nbf is missing or no integer";
	}
	if (now >= out->expires) {
		return "the token has expired";
	}
	if (now < not_before) {
		return "the token is not valid yet: compare the clocks of broker and signer";
	}
	if (!read_filters(jwt, "subs", &out->subscribe) || !read_filters(jwt, "publ", &out->publish)) {
		return "claim subs or publ is missing or no list of topic filters";
	}
	out->may_use_old_protocol = role_may_use_old_protocol(role);
	out->name = strdup(name);
	return out->name == NULL ? "out of memory" : NULL;
}

const char *token_check(const char *token, const struct keyring *keyring, time_t now, struct claims *out)
{
	*out = (struct claims){.name = NULL};
	if (strnlen(token, MAX_TOKEN_BYTES + 1) > MAX_TOKEN_BYTES) {
		return "the token is longer than 8192 bytes";
	}
	jwt_t *jwt = decode(token, keyring);

	if (jwt == NULL) {
		return "the token is not signed with a key that is valid here";
	}
	const char *reason = read_claims(jwt, now, out);

	jwt_free(jwt);
	if (reason != NULL) {
		claims_free(out);
	}
	return reason;
}

void claims_free(struct claims *claims)
{
	free(claims->name);
	filters_free(&claims->subscribe);
	filters_free(&claims->publish);
	*claims = (struct claims){.name = NULL};
}
