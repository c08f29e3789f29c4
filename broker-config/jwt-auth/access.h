/* Decides whether one request of a client is allowed. Pure: depends only on its arguments. */
#ifndef NTPPOOL_ACCESS_H
#define NTPPOOL_ACCESS_H

#include <stdbool.h>

#include "grants.h"

/* The client for which the broker checks a request. */
enum presence {
	/* The connection that is logged in with this client id. */
	CONNECTED,
	/* The previous connection of this client id, or one that has ended: messages are queued for its session, or
	 * its will is sent. */
	DEPARTED,
	/* No connection since the broker's start: a session read from disk, or the source of a retained message. */
	WITHOUT_CONNECTION,
	/* A connection that has never logged in with this client id. */
	STRANGER,
};

enum action { SUBSCRIBE, UNSUBSCRIBE, RECEIVE, PUBLISH };

#define MAX_FILTER_BYTES 1024 /* of a subscription, since the broker stores it; ours are shorter than half of it */

struct request {
	enum action action;
	const char *topic; /* or the filter of a subscription */
	int qos;
	bool retain;
	int subscriptions; /* number of the client's existing ones */
};

/* `grant` belongs to the client id, and may be NULL. */
bool access_is_allowed(const struct grant *grant, enum presence presence, const struct request *request);

#endif
