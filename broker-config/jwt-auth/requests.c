/* What clients publish, subscribe and receive. */
#include "access.h"
#include "identity.h"
#include "plugin.h"
#include "stamp.h"
#include "topic.h"

static enum presence presence_of(const struct grant *grant, const struct mosquitto *client)
{
	/* Only a CONNECT packet sets the version. */
	if (mosquitto_client_protocol_version(client) == 0) {
		return WITHOUT_CONNECTION;
	}
	if (grant != NULL && grant->client == client) {
		return CONNECTED;
	}
	return grant != NULL && grant->former == client ? DEPARTED : STRANGER;
}

static bool request_of(int access, enum request *out)
{
	switch (access) {
	case MOSQ_ACL_SUBSCRIBE:
		*out = SUBSCRIBE;
		return true;
	case MOSQ_ACL_UNSUBSCRIBE:
		*out = UNSUBSCRIBE;
		return true;
	case MOSQ_ACL_READ:
		*out = RECEIVE;
		return true;
	case MOSQ_ACL_WRITE:
		*out = PUBLISH;
		return true;
	default:
		return false;
	}
}

static void log_denial(const char *id, enum presence presence, enum request request, const char *topic)
{
	char shown[LOG_NAME_BYTES];

	identity_for_log(id, shown, sizeof shown);
	if (request == SUBSCRIBE) {
		mosquitto_log_printf(MOSQ_LOG_NOTICE, "jwt-auth: %s may not subscribe to %.256s", shown, topic);
	} else if (request == PUBLISH && presence == DEPARTED) {
		mosquitto_log_printf(MOSQ_LOG_NOTICE, "jwt-auth: the will of %s on %.256s is refused", shown, topic);
	}
}

int on_acl_check(int event, void *event_data, void *userdata)
{
	struct plugin *plugin = userdata;
	struct mosquitto_evt_acl_check *check = event_data;
	const char *id = mosquitto_client_id(check->client);
	enum request request;

	(void)event;
	if (id == NULL || check->topic == NULL || !request_of(check->access, &request)) {
		return MOSQ_ERR_ACL_DENIED;
	}
	struct grant *grant = grants_find(plugin->grants, id);
	enum presence presence = presence_of(grant, check->client);
	bool allowed = access_is_allowed(grant, presence, request, check->topic, check->retain);

	/* When the broker stops it sends the wills of connections that are still there, which look like messages of
	 * theirs. But what is not stamped right after this check is none, and nobody may receive it. */
	if (request == PUBLISH) {
		plugin->order_unstamped = allowed && presence == CONNECTED && topic_is_control(check->topic);
	} else if (request == RECEIVE && plugin->order_unstamped && topic_is_control(check->topic)) {
		allowed = false;
	}
	if (allowed) {
		return MOSQ_ERR_SUCCESS;
	}
	log_denial(id, presence, request, check->topic);
	return MOSQ_ERR_ACL_DENIED;
}

int on_message(int event, void *event_data, void *userdata)
{
	struct plugin *plugin = userdata;
	struct mosquitto_evt_message *message = event_data;
	const char *id = mosquitto_client_id(message->client);

	(void)event;
	if (!topic_is_control(message->topic)) {
		return MOSQ_ERR_SUCCESS;
	}
	struct grant *grant = id == NULL ? NULL : grants_find(plugin->grants, id);

	if (grant == NULL || grant->client != message->client) {
		return MOSQ_ERR_ACL_DENIED;
	}
	if (!stamp_sender(&message->properties, grant->claims.name)) {
		return MOSQ_ERR_NOMEM;
	}
	plugin->order_unstamped = false;
	return MOSQ_ERR_SUCCESS;
}
