/* The decision about one request of a client. Pure: it sees a grant and the facts, and calls nothing of the broker. */
#ifndef NTPPOOL_ACCESS_H
#define NTPPOOL_ACCESS_H

#include <stdbool.h>

#include "grants.h"

/* Who the broker asks for. */
enum presence {
	/* The connection that has logged in with this client id. */
	CONNECTED,
	/* The one before it, or the one that has left: a session that messages are queued for, or that sends its
	 * will. */
	DEPARTED,
	/* No connection of this life of the broker: a session read from disk, or the source of a retained message. */
	WITHOUT_CONNECTION,
	/* A connection that has never logged in with this client id. */
	STRANGER,
};

enum request { SUBSCRIBE, UNSUBSCRIBE, RECEIVE, PUBLISH };

#define MAX_FILTER_BYTES 1024 /* of a subscription, which the broker keeps; none of ours has half of it */

struct wish {
	enum request request;
	const char *topic; /* or the filter of a subscription */
	int qos;
	bool retain;
	int subscriptions; /* that the client has */
};

/* `grant` is the one of the client id, and may be NULL. */
bool access_is_allowed(const struct grant *grant, enum presence presence, const struct wish *wish);

#endif
