/* Who may do what: the claims of every client that has logged in, by client id.
 *
 * By id and not by the broker's pointer, since a session outlives its connections: messages are queued for it, and its
 * will is sent, after the connection is gone. The table therefore remembers clients that have left as long as the
 * broker keeps their session, and at most for longer than it can (persistent_client_expiration). So what the table has
 * of a name is what the broker has of it, which is how a name's sessions are counted. */
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
	/* The broker's objects of the present connection and of the one before it; only ever compared. `client` is
	 * NULL when the client is not connected. */
	const void *client;
	const void *former;
	bool withdrawn; /* the key of its token is no longer good */
	bool ending;    /* the broker has been asked to end the connection */
	time_t left;
	time_t looked; /* when it was last seen that the broker keeps the session; 0: not since it left */
	struct grant *next;           /* in the bucket */
	struct grant *older, *newer;  /* among those that have left */
};

struct grants;

/* NULL when memory is short. */
struct grants *grants_new(void);
void grants_free(struct grants *grants);

struct grant *grants_find(const struct grants *grants, const char *client_id);

/* Enters a client that has logged in, in place of an earlier entry of that id. The claims are taken over. False when
 * memory is short; then nothing is changed. */
bool grants_enter(struct grants *grants, const char *client_id, struct claims *claims, const void *client);

/* Notes that the connection `client` is over. Another one of the same id may have taken its place before. */
void grants_leave(struct grants *grants, const char *client_id, const void *client, time_t now);

/* Forgets the clients that left too long ago, and those whose session `is_kept` denies. That is asked soon after a
 * client has left, and then every hour. */
void grants_forget(struct grants *grants, time_t now, bool (*is_kept)(const char *client_id));

/* Takes their rights from all whose token is signed with a key that is not in the ring. */
void grants_withdraw(struct grants *grants, const struct keyring *keyring);

/* The number of sessions of a name, connected or kept, but for those whose key was withdrawn. */
size_t grants_of(const struct grants *grants, const char *name);

/* A client whose connection has to end now, each once; NULL when there is none (any more). */
struct grant *grants_next_to_end(struct grants *grants, time_t now);

size_t grants_count(const struct grants *grants);

#endif
