/* What a token says, once its signature and times are known to be good. */
#ifndef NTPPOOL_TOKEN_H
#define NTPPOOL_TOKEN_H

#include <stdbool.h>
#include <time.h>

#include "filters.h"
#include "keys.h"

#define MAX_TOKEN_BYTES 8192

/* What a role may do beyond its topics, and how much of the broker's memory it may take. */
struct rules {
	const char *role;
	bool may_use_old_protocol; /* MQTT 3 */
	bool may_retain;           /* whatever it may publish; else its status only */
	size_t sessions;           /* of one name, connected or kept */
	int subscriptions;         /* of one session */
};

struct claims {
	char *name; /* the subject */
	const struct rules *rules;
	unsigned int key; /* the serial of the key that the token is signed with */
	time_t expires;
	struct filters subscribe;
	struct filters publish;
};

/* Checks the token. Returns NULL and fills `*out`, or returns the reason why it is refused, which is fit for the log:
 * it quotes nothing of the token. */
const char *token_check(const char *token, const struct keyring *keyring, time_t now, struct claims *out);

void claims_free(struct claims *claims);

#endif
