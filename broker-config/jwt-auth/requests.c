/* Publishing, subscribing and receiving. */
#include "access.h"
#include "plugin.h"
#include "shown.h"
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

static bool action_of(int access, enum action *out)
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

static void log_denial(const struct plugin *plugin, const char *id, enum presence presence,
                       const struct request *request)
{
	char name[LOG_NAME_BYTES], topic[LOG_TOPIC_BYTES];

	shown_text(&plugin->keyring, id, name, sizeof name);
	shown_text(&plugin->keyring, request->topic, topic, sizeof topic);
	if (request->action == SUBSCRIBE && presence == CONNECTED) {
		mosquitto_log_printf(MOSQ_LOG_NOTICE, "jwt-auth: %s may not subscribe to %s", name, topic);
	} else if (request->action == PUBLISH && presence == DEPARTED) {
		mosquitto_log_printf(MOSQ_LOG_NOTICE, "jwt-auth: the will of %s on %s is refused", name, topic);
	}
}

/* The token of a session from before the start is unknown. It may have been revoked since, or its key withdrawn. */
static bool may_be_withdrawn(const struct plugin *plugin, const char *id)
{
	return plugin->key_was_withdrawn || revocations_concern(&plugin->revocations, id, time(NULL));
}

static bool is_allowed(struct plugin *plugin, const char *id, const struct grant *grant, enum presence presence,
                       const struct request *request)
{
	if (grant == NULL && presence == WITHOUT_CONNECTION && request->action == RECEIVE && may_be_withdrawn(plugin, id)) {
		return false;
	}
	bool allowed = access_is_allowed(grant, presence, request);

	/* When the broker stops, it sends the wills of its connections, which look like their messages here. But a
	 * control command that is not stamped right after this check must be a will, and nobody may receive it. */
	if (request->action == PUBLISH) {
		plugin->command_unstamped = allowed && presence == CONNECTED && topic_is_control(request->topic);
	} else if (request->action == RECEIVE && plugin->command_unstamped && topic_is_control(request->topic)) {
		return false;
	}
	return allowed;
}

int on_acl_check(int event, void *event_data, void *userdata)
{
	struct plugin *plugin = userdata;
	struct mosquitto_evt_acl_check *check = event_data;
	const char *id = mosquitto_client_id(check->client);
	struct request request = {.topic = check->topic, .qos = check->qos, .retain = check->retain};

	(void)event;
	if (id == NULL || check->topic == NULL || !action_of(check->access, &request.action)) {
		return MOSQ_ERR_ACL_DENIED;
	}
	if (request.action == SUBSCRIBE) {
		request.subscriptions = mosquitto_client_sub_count(check->client);
	}
	struct grant *grant = grants_find(plugin->grants, id);
	enum presence presence = presence_of(grant, check->client);

	if (is_allowed(plugin, id, grant, presence, &request)) {
		return MOSQ_ERR_SUCCESS;
	}
	log_denial(plugin, id, presence, &request);
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
	if (topic_is_revocations(message->topic) && !obey_revocation(plugin, grant, message)) {
		return MOSQ_ERR_ACL_DENIED;
	}
	if (!stamp_sender(&message->properties, grant->claims.name)) {
		return MOSQ_ERR_NOMEM;
	}
	plugin->command_unstamped = false;
	return MOSQ_ERR_SUCCESS;
}
