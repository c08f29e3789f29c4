#include "access.h"

#include <string.h>

#include "topic.h"

/* Of a message of QoS 2 the broker keeps the sender's copy until the sender says so, which it may never do. Since none
 * is let in, a subscription with QoS 2 never gets one. */
static bool may_publish(const struct claims *claims, const struct wish *wish)
{
	return filters_match(&claims->publish, wish->topic) && wish->qos < 2 &&
	       (!wish->retain || claims->rules->may_retain || topic_is_status_of(wish->topic, claims->name));
}

static bool may_subscribe(const struct claims *claims, const struct wish *wish)
{
	return wish->subscriptions < claims->rules->subscriptions &&
	       strnlen(wish->topic, MAX_FILTER_BYTES + 1) <= MAX_FILTER_BYTES &&
	       filters_allow_subscription(&claims->subscribe, wish->topic);
}

/* The broker asks so for each subscription of a session whose connection the plugin has ended, and removes those that
 * are denied. A share of a group does not outlive the connection: what falls to it, nobody else in the group gets. */
static bool may_keep_subscription(const struct claims *claims, const struct wish *wish)
{
	return !topic_is_shared(wish->topic) && filters_allow_subscription(&claims->subscribe, wish->topic);
}

static bool connected_may(const struct grant *grant, const struct wish *wish)
{
	switch (wish->request) {
	case SUBSCRIBE:
		return grant->ending ? may_keep_subscription(&grant->claims, wish) : may_subscribe(&grant->claims, wish);
	case UNSUBSCRIBE:
		return true;
	case RECEIVE:
		return filters_match(&grant->claims.subscribe, wish->topic);
	case PUBLISH:
		/* An order is for now, not for whoever comes later. */
		return may_publish(&grant->claims, wish) && !(wish->retain && topic_is_control(wish->topic));
	}
	return false;
}

static bool departed_may(const struct grant *grant, const struct wish *wish)
{
	switch (wish->request) {
	case SUBSCRIBE:
		return may_keep_subscription(&grant->claims, wish);
	case RECEIVE:
		return filters_match(&grant->claims.subscribe, wish->topic);
	case PUBLISH:
		/* This is a will. It does not pass the place where orders get the name of their sender. */
		return may_publish(&grant->claims, wish) && !topic_is_control(wish->topic);
	case UNSUBSCRIBE:
		break;
	}
	return false;
}

/* What is asked here has been checked when it was new. Without a grant it is let through: a message that is queued for
 * a session is checked once more when its owner logs in, and a retained one when it is read. */
static bool absent_may(const struct grant *grant, const struct wish *wish)
{
	switch (wish->request) {
	case RECEIVE:
		return grant == NULL || filters_match(&grant->claims.subscribe, wish->topic);
	case PUBLISH:
		return grant == NULL || filters_match(&grant->claims.publish, wish->topic);
	case SUBSCRIBE:
	case UNSUBSCRIBE:
		break;
	}
	return false;
}

/* A session stays when the key of its token is withdrawn, for its owner may come back with another one. Until then it
 * has no rights but to keep what it has subscribed, of which it gets nothing. */
static bool withdrawn_may(const struct grant *grant, const struct wish *wish)
{
	return wish->request == SUBSCRIBE && may_keep_subscription(&grant->claims, wish);
}

bool access_is_allowed(const struct grant *grant, enum presence presence, const struct wish *wish)
{
	if (presence != WITHOUT_CONNECTION && (grant == NULL || presence == STRANGER)) {
		return false;
	}
	if (grant != NULL && grant->withdrawn) {
		return withdrawn_may(grant, wish);
	}
	switch (presence) {
	case CONNECTED:
		return connected_may(grant, wish);
	case DEPARTED:
		return departed_may(grant, wish);
	case WITHOUT_CONNECTION:
		return absent_may(grant, wish);
	case STRANGER:
		break;
	}
	return false;
}
