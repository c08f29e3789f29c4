/* Who may do what: the claims of every client that has logged in, by client id.
 *
 * By id and not by the broker's pointer, since a session outlives its connections: messages are queued for it, and its
 * will is sent, after the connection is gone. The table therefore remembers clients after they have left, for longer
 * than the broker keeps a session (persistent_client_expiration), and a bounded number of them for each name. */
#ifndef NTPPOOL_GRANTS_H
#define NTPPOOL_GRANTS_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "token.h"

#define REMEMBERED_SECONDS (8 * 24 * 3600)
#define REMEMBERED_PER_NAME 64

struct grant {
	char *client_id;
	struct claims claims;
	/* The broker's objects of the present connection and of the one before it; only ever compared. `client` is
	 * NULL when the client is not connected. */
	const void *client;
	const void *former;
	const char *withdrawn; /* why the connection is to be ended, when not because of the time */
	bool ending;           /* the broker has been asked to end the connection */
	time_t left;
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

/* Forgets the clients that left too long ago. */
void grants_forget(struct grants *grants, time_t now);

/* A client whose connection has to end now, each once; NULL when there is none (any more). */
struct grant *grants_next_to_end(struct grants *grants, time_t now);

size_t grants_count(const struct grants *grants);

#endif
