/* Verifies tokens, and reads their claims. */
#ifndef NTPPOOL_TOKEN_H
#define NTPPOOL_TOKEN_H

#include <stdbool.h>
#include <time.h>

#include "filters.h"
#include "keys.h"

#define MAX_TOKEN_BYTES 8192

/* The permissions of a role apart from topics, and its limits, which bound the broker's memory. */
struct rules {
	const char *role;
	bool is_monitor;           /* also any role that is unknown here */
	bool may_use_old_protocol; /* MQTT 3 */
	bool may_retain;           /* everything that it may publish; if false, only its status */
	bool may_revoke;           /* the tokens of monitors */
	size_t sessions;           /* of one name, connected or kept */
	int subscriptions;         /* of one session */
};

/* Returns the rules of a role; those of monitors, which are the strictest, if it is unknown. */
const struct rules *rules_of(const char *role);

struct claims {
	char *name; /* the subject */
	const struct rules *rules;
	unsigned int key; /* the serial of the key that the token is signed with */
	time_t issued; /* 0: unknown, and so revoked by any revocation */
	time_t expires;
	struct filters subscribe;
	struct filters publish;
};

/* Verifies the token's signature and times. Returns NULL and fills `*out`, or returns the reason for refusing it, which
 * is safe to log: it contains no part of the token. */
const char *token_check(const char *token, const struct keyring *keyring, time_t now, struct claims *out);

void claims_free(struct claims *claims);

#endif
