/* The grants: the claims of every client that has logged in, by client id.
 *
 * The broker's pointer could not identify them, since a session outlives its connections: messages are queued for it,
 * and its will is sent, after the connection has ended. The table therefore remembers a client that has left as long as
 * the broker keeps its session, up to a limit beyond the broker's own (persistent_client_expiration). The table thus
 * has the same sessions of a name as the broker, and the sessions of a name can be counted in it. */
#ifndef NTPPOOL_GRANTS_H
#define NTPPOOL_GRANTS_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "token.h"

#define REMEMBERED_SECONDS (3 * 24 * 3600)
#define LOOK_SECONDS 3600

struct grant {
	char *client_id;
	struct claims claims;
	/* The broker's objects of the current and the previous connection; never dereferenced. `client` is NULL while
	 * the client is not connected. */
	const void *client;
	const void *former;
	bool withdrawn; /* its token is no longer valid: it was revoked, or the key that it is signed with was withdrawn */
	bool revoked;   /* the reason is that it was revoked */
	bool ending;    /* the plugin is ending its connection */
	time_t left;
	time_t looked; /* when the broker was last found to keep the session; 0: not checked since it left */
	struct grant *next;           /* in the bucket */
	struct grant *older, *newer;  /* among the clients that have left */
};

struct grants;

/* Returns NULL if memory is short. */
struct grants *grants_new(void);
void grants_free(struct grants *grants);

struct grant *grants_find(const struct grants *grants, const char *client_id);

/* Adds a client that has logged in, replacing an earlier grant of that id. Takes ownership of the claims. Returns false
 * and changes nothing if memory is short. */
bool grants_enter(struct grants *grants, const char *client_id, struct claims *claims, const void *client);

/* Records that the connection `client` has ended. Another one of the same id may already have replaced it. */
void grants_leave(struct grants *grants, const char *client_id, const void *client, time_t now);

/* Removes the clients that left too long ago, and those whose session is no longer kept. Calls `is_kept` soon after a
 * client has left, and then every hour. */
void grants_forget(struct grants *grants, time_t now, bool (*is_kept)(const char *client_id));

/* Withdraws all grants whose token is signed with a key that is not in the ring. */
void grants_withdraw(struct grants *grants, const struct keyring *keyring);

/* Withdraws the grants of a monitor's tokens that were issued at `until` or before. */
void grants_revoke(struct grants *grants, const char *name, time_t until);

/* Returns the number of sessions of a name, connected or kept, except those whose token was withdrawn. */
size_t grants_count_sessions(const struct grants *grants, const char *name);

/* Returns the next client whose connection must end now, each only once, or NULL. */
struct grant *grants_next_to_end(struct grants *grants, time_t now);

size_t grants_count(const struct grants *grants);

#endif
