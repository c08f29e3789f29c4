#include "access.h"

#include "topic.h"

static bool connected_may(const struct claims *claims, enum request request, const char *topic, bool retain)
{
	switch (request) {
	case SUBSCRIBE:
		return filters_allow_subscription(&claims->subscribe, topic);
	case UNSUBSCRIBE:
		return true;
	case RECEIVE:
		return filters_match(&claims->subscribe, topic);
	case PUBLISH:
		/* An order is for now, not for whoever comes later. */
		return filters_match(&claims->publish, topic) && !(retain && topic_is_control(topic));
	}
	return false;
}

static bool departed_may(const struct claims *claims, enum request request, const char *topic)
{
	switch (request) {
	case RECEIVE:
		return filters_match(&claims->subscribe, topic);
	case PUBLISH:
		/* This is a will. It does not pass the place where orders get the name of their sender. */
		return filters_match(&claims->publish, topic) && !topic_is_control(topic);
	case SUBSCRIBE:
	case UNSUBSCRIBE:
		break;
	}
	return false;
}

/* What is asked here has been checked when it was new. Without a grant it is let through: a message that is queued for
 * a session is checked once more when its owner logs in, and a retained one when it is read. */
static bool absent_may(const struct grant *grant, enum request request, const char *topic)
{
	switch (request) {
	case RECEIVE:
		return grant == NULL || filters_match(&grant->claims.subscribe, topic);
	case PUBLISH:
		return grant == NULL || filters_match(&grant->claims.publish, topic);
	case SUBSCRIBE:
	case UNSUBSCRIBE:
		break;
	}
	return false;
}

bool access_is_allowed(const struct grant *grant, enum presence presence, enum request request, const char *topic,
                       bool retain)
{
	if (presence == WITHOUT_CONNECTION) {
		return absent_may(grant, request, topic);
	}
	if (grant == NULL || presence == STRANGER) {
		return false;
	}
	return presence == CONNECTED ? connected_may(&grant->claims, request, topic, retain)
	                             : departed_may(&grant->claims, request, topic);
}
