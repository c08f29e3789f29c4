#include "token.h"

#include <stdlib.h>
#include <string.h>

#include "identity.h"
#include "signature.h"

/* There are hundreds of monitors, run by strangers; the other clients are the pool's own. An agent has three sessions:
 * its own, and one each for "monitor --once" and "--sanity-only". Each start of a worker creates a session of its name.
 * No session has more than a dozen subscriptions.
 *
 * In MQTT 3.1.1 the broker cannot report a denied publish. People and exporters with mosquitto_sub and mosquitto_pub
 * can live with that, but a monitor would wait for its acknowledgement forever. */
static const struct rules MONITOR_RULES = {
	.role = "monitor", .is_monitor = true, .sessions = 8, .subscriptions = 32};

#define OF_THE_POOL .may_use_old_protocol = true, .sessions = 256, .subscriptions = 1024
static const struct rules POOL_RULES[] = {
	{.role = "admin", OF_THE_POOL, .may_retain = true, .may_revoke = true},
	{.role = "exporter", OF_THE_POOL},
	{.role = "observer", OF_THE_POOL},
	{.role = "server", OF_THE_POOL, .may_retain = true, .may_revoke = true},
};

const struct rules *rules_of(const char *role)
{
	for (size_t i = 0; i < sizeof POOL_RULES / sizeof *POOL_RULES; i++) {
		if (strcmp(role, POOL_RULES[i].role) == 0) {
			return &POOL_RULES[i];
		}
	}
	return &MONITOR_RULES;
}

static bool read_filters(jwt_t *token, const char *claim, struct filters *out)
{
	char *json = signature_claim_array(token, claim);
	bool good = json != NULL && filters_parse(json, out);

	free(json);
	return good;
}

static const char *read_claims(jwt_t *token, time_t now, struct claims *out)
{
	const char *name = signature_claim_text(token, "sub");
	const char *role = signature_claim_text(token, "role");
	time_t not_before;

	if (signature_has_parameter(token, "crit")) {
		return "the token has a critical extension that is not supported";
	}
	if (name == NULL || !identity_name_is_valid(name)) {
		return "claim sub is missing or not a valid name";
	}
	if (role == NULL) {
		return "claim role is missing or not a string";
	}
	if (!signature_claim_time(token, "exp", &out->expires)) {
		return "claim exp is missing or not an integer";
	}
	if (!signature_claim_time(token, "nbf", &not_before)) {
		return "claim nbf is missing or not an integer";
	}
	if (!signature_claim_time(token, "iat", &out->issued)) {
		out->issued = 0;
	}
	if (now >= out->expires) {
		return "the token has expired";
	}
	if (now < not_before) {
		return "the token is not valid yet: compare the clocks of broker and signer";
	}
	if (!read_filters(token, "subs", &out->subscribe) || !read_filters(token, "publ", &out->publish)) {
		return "claim subs or publ is missing or not a list of topic filters";
	}
	out->rules = rules_of(role);
	out->name = strdup(name);
	return out->name == NULL ? "out of memory" : NULL;
}

struct reading {
	time_t now;
	struct claims *out;
	const char *reason;
};

static void read_into(jwt_t *token, void *context)
{
	struct reading *reading = context;

	reading->reason = read_claims(token, reading->now, reading->out);
}

const char *token_check(const char *token, const struct keyring *keyring, time_t now, struct claims *out)
{
	struct reading reading = {now, out, NULL};
	bool is_signed = false;

	*out = (struct claims){.name = NULL};
	if (strnlen(token, MAX_TOKEN_BYTES + 1) > MAX_TOKEN_BYTES) {
		return "the token is longer than 8192 bytes";
	}
	for (size_t i = 0; i < keyring->count && !is_signed; i++) {
		is_signed = signature_read(token, &keyring->keys[i], read_into, &reading);
		out->key = keyring->keys[i].serial;
	}
	if (!is_signed) {
		reading.reason = "the token is not signed with a key that is valid here";
	}
	if (reading.reason != NULL) {
		claims_free(out);
	}
	return reading.reason;
}

void claims_free(struct claims *claims)
{
	free(claims->name);
	filters_free(&claims->subscribe);
	filters_free(&claims->publish);
	*claims = (struct claims){.name = NULL};
}
