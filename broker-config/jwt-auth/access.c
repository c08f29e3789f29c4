#include "access.h"

#include <string.h>

#include "topic.h"

/* No QoS 2: the broker keeps such a message until the sender releases it, which it may never do. A subscription with
 * QoS 2 is harmless, since no message has QoS 2. */
static bool may_publish(const struct claims *claims, const struct request *request)
{
	return filters_match(&claims->publish, request->topic) && request->qos < 2 &&
	       (!request->retain || claims->rules->may_retain || topic_is_status_of(request->topic, claims->name));
}

static bool may_subscribe(const struct claims *claims, const struct request *request)
{
	return request->subscriptions < claims->rules->subscriptions &&
	       strnlen(request->topic, MAX_FILTER_BYTES + 1) <= MAX_FILTER_BYTES &&
	       filters_allow_subscription(&claims->subscribe, request->topic);
}

/* After the plugin has ended a connection, the broker checks each subscription of its session, and removes those that
 * are denied. A member of a group must not outlive its connection, since its share of the messages reaches nobody. */
static bool may_keep_subscription(const struct claims *claims, const struct request *request)
{
	return !topic_is_shared(request->topic) && filters_allow_subscription(&claims->subscribe, request->topic);
}

static bool connected_may(const struct grant *grant, const struct request *request)
{
	switch (request->action) {
	case SUBSCRIBE:
		return grant->ending ? may_keep_subscription(&grant->claims, request)
		                     : may_subscribe(&grant->claims, request);
	case UNSUBSCRIBE:
		return true;
	case RECEIVE:
		return filters_match(&grant->claims.subscribe, request->topic);
	case PUBLISH:
		/* A retained control command would also reach later subscribers. */
		return may_publish(&grant->claims, request) && !(request->retain && topic_is_control(request->topic));
	}
	return false;
}

static bool departed_may(const struct grant *grant, const struct request *request)
{
	switch (request->action) {
	case SUBSCRIBE:
		return may_keep_subscription(&grant->claims, request);
	case RECEIVE:
		return filters_match(&grant->claims.subscribe, request->topic);
	case PUBLISH:
		/* This is a will. The broker sends it without MOSQ_EVT_MESSAGE, so it would lack the sender's name. */
		return may_publish(&grant->claims, request) && !topic_is_control(request->topic);
	case UNSUBSCRIBE:
		break;
	}
	return false;
}

/* These requests were checked when they were new. Without a grant they are allowed: a message that is queued for a
 * session is checked again when its owner logs in, and a retained message when it is read. */
static bool absent_may(const struct grant *grant, const struct request *request)
{
	switch (request->action) {
	case RECEIVE:
		return grant == NULL || filters_match(&grant->claims.subscribe, request->topic);
	case PUBLISH:
		return grant == NULL || filters_match(&grant->claims.publish, request->topic);
	case SUBSCRIBE:
	case UNSUBSCRIBE:
		break;
	}
	return false;
}

/* A session survives the withdrawal of its token, since its owner may log in with a new token. Until then it
 * keeps its subscriptions, but receives nothing and has no other permissions. */
static bool withdrawn_may(const struct grant *grant, const struct request *request)
{
	return request->action == SUBSCRIBE && may_keep_subscription(&grant->claims, request);
}

bool access_is_allowed(const struct grant *grant, enum presence presence, const struct request *request)
{
	if (presence != WITHOUT_CONNECTION && (grant == NULL || presence == STRANGER)) {
		return false;
	}
	if (grant != NULL && grant->withdrawn) {
		return withdrawn_may(grant, request);
	}
	switch (presence) {
	case CONNECTED:
		return connected_may(grant, request);
	case DEPARTED:
		return departed_may(grant, request);
	case WITHOUT_CONNECTION:
		return absent_may(grant, request);
	case STRANGER:
		break;
	}
	return false;
}
