/* Mosquitto plugin: a client's password is a JWT that we have signed, its user name the token's subject, and what it
 * may publish and subscribe stands in the token.
 *
 * This file binds the broker's events to the parts that know nothing of a broker. What it must know of Mosquitto
 * (2.0.11 is the oldest version it is used with) is said where it matters. */
#include <errno.h>
#include <mosquitto.h>
#include <mosquitto_broker.h>
#include <mosquitto_plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "access.h"
#include "grants.h"
#include "identity.h"
#include "keys.h"
#include "stamp.h"
#include "token.h"
#include "topic.h"

#define EXPORTED __attribute__((visibility("default")))
#define LOG_NAME_BYTES 128
#ifndef TICK_MISSED_SECONDS
#define TICK_MISSED_SECONDS 60
#endif

struct plugin {
	mosquitto_plugin_id_t *id;
	char *key_file;
	char *previous_key_file;
	struct keyring keyring;
	struct grants *grants;
	time_t last_look;    /* at the expiry of connections */
	time_t last_tick;    /* by the monotonic clock; of the start, before the first one */
	bool ticking;
	bool reloading;      /* between the reload of the keys and the next tick */
	bool order_unstamped; /* between the check of an order and its stamp */
};

static time_t monotonic_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

/* --- keys ----------------------------------------------------------------------------------------------- */

static void log_keys(const struct keyring *keyring)
{
	mosquitto_log_printf(MOSQ_LOG_NOTICE, "jwt-auth: tokens are checked with a key for %s%s%s",
	                     key_algorithm_name(&keyring->keys[0]),
	                     keyring->count > 1 ? ", and with the previous one for " : "",
	                     keyring->count > 1 ? key_algorithm_name(&keyring->keys[1]) : "");
}

static bool load_keys(struct plugin *plugin)
{
	struct keyring keyring;
	struct complaint complaint;

	if (!keyring_load(plugin->key_file, plugin->previous_key_file, &keyring, &complaint)) {
		mosquitto_log_printf(MOSQ_LOG_ERR, "jwt-auth: %s", complaint.text);
		return false;
	}
	keyring_free(&plugin->keyring);
	plugin->keyring = keyring;
	log_keys(&keyring);
	if (key_file_is_open(plugin->key_file, &keyring.keys[0])) {
		mosquitto_log_printf(MOSQ_LOG_WARNING, "jwt-auth: key file %s is readable by everybody",
		                     plugin->key_file);
	}
	return true;
}

static int on_reload(int event, void *event_data, void *userdata)
{
	struct plugin *plugin = userdata;

	(void)event;
	(void)event_data;
	if (!load_keys(plugin)) {
		mosquitto_log_printf(MOSQ_LOG_ERR, "jwt-auth: the keys that were loaded before stay in use");
	}
	/* Without ticks nothing would end the state that this begins. */
	plugin->reloading = plugin->ticking;
	/* Any other answer would keep the broker from reloading the rest. */
	return MOSQ_ERR_PLUGIN_DEFER;
}

/* --- login ---------------------------------------------------------------------------------------------- */

static const char *fault_of_login(struct plugin *plugin, const struct mosquitto_evt_basic_auth *login,
                                  struct claims *claims)
{
	const char *id = mosquitto_client_id(login->client);

	if (id == NULL || login->username == NULL || login->password == NULL) {
		return "client id, user name and password are needed";
	}
	if (monotonic_seconds() - plugin->last_tick > TICK_MISSED_SECONDS) {
		return "the broker does not tick, so tokens would not expire: set per_listener_settings to false";
	}
	const char *fault = token_check(login->password, &plugin->keyring, time(NULL), claims);

	if (fault != NULL) {
		return fault;
	}
	if (strcmp(login->username, claims->name) != 0) {
		return "the user name is not the token's subject";
	}
	if (!identity_owns_client_id(claims->name, id)) {
		return "the client id must be the user name, or begin with it and a slash";
	}
	if (!claims->may_use_old_protocol && mosquitto_client_protocol_version(login->client) != 5) {
		return "monitors must speak MQTT 5";
	}
	return NULL;
}

static int log_in(struct plugin *plugin, const struct mosquitto_evt_basic_auth *login)
{
	struct claims claims = {.name = NULL};
	char shown[LOG_NAME_BYTES];
	const char *id = mosquitto_client_id(login->client);
	const char *fault = fault_of_login(plugin, login, &claims);

	if (fault == NULL && !grants_enter(plugin->grants, id, &claims, login->client)) {
		fault = "out of memory";
	}
	claims_free(&claims);
	if (fault == NULL) {
		return MOSQ_ERR_SUCCESS;
	}
	const char *address = mosquitto_client_address(login->client);

	/* People do put secrets into the wrong field. */
	if (id != NULL && keyring_is_quoted(&plugin->keyring, id)) {
		id = NULL;
	}
	mosquitto_log_printf(MOSQ_LOG_NOTICE, "jwt-auth: login of %s from %s refused: %s",
	                     identity_for_log(id, shown, sizeof shown), address == NULL ? "nowhere" : address, fault);
	return MOSQ_ERR_AUTH;
}

/* After a reload the broker asks again for every session it knows. Refusing one that has no connection corrupts
 * Mosquitto's list of expiring sessions (it is entered a second time, and freed once), so such a session is let be:
 * its owner has to log in again anyway. A connection whose token is no longer good is ended at the next tick, which,
 * other than a refusal here, tells the client why and sends its will. */
static int check_again(struct plugin *plugin, struct grant *grant, const struct mosquitto_evt_basic_auth *login)
{
	struct claims claims;

	if (grant != NULL && grant->client == login->client) {
		grant->withdrawn = login->password == NULL
		                           ? "the token is gone"
		                           : token_check(login->password, &plugin->keyring, time(NULL), &claims);
		if (grant->withdrawn == NULL) {
			claims_free(&claims);
		}
	}
	return MOSQ_ERR_SUCCESS;
}

static int on_basic_auth(int event, void *event_data, void *userdata)
{
	struct plugin *plugin = userdata;
	struct mosquitto_evt_basic_auth *login = event_data;
	const char *id = mosquitto_client_id(login->client);

	(void)event;
	if (plugin->reloading && id != NULL) {
		struct grant *grant = grants_find(plugin->grants, id);
		bool is_known = grant != NULL && grant->client == login->client;

		/* Between a reload and the next tick new connections can come through websockets only. Even if one
		 * came in another way, it would have no rights: it gets no grant here. */
		if (is_known || mosquitto_client_protocol(login->client) != mp_websockets) {
			return check_again(plugin, grant, login);
		}
	}
	return log_in(plugin, login);
}

static int on_disconnect(int event, void *event_data, void *userdata)
{
	struct plugin *plugin = userdata;
	struct mosquitto_evt_disconnect *over = event_data;
	const char *id = mosquitto_client_id(over->client);

	(void)event;
	if (id != NULL) {
		grants_leave(plugin->grants, id, over->client, time(NULL));
	}
	return MOSQ_ERR_SUCCESS;
}

/* --- requests ------------------------------------------------------------------------------------------- */

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

static int on_acl_check(int event, void *event_data, void *userdata)
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

static int on_message(int event, void *event_data, void *userdata)
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

/* --- expiry --------------------------------------------------------------------------------------------- */

static void end_connections(struct plugin *plugin, time_t now)
{
	char shown[LOG_NAME_BYTES];
	struct grant *grant;

	while ((grant = grants_next_to_end(plugin->grants, now)) != NULL) {
		mosquitto_log_printf(MOSQ_LOG_NOTICE, "jwt-auth: %s is disconnected: %s",
		                     identity_for_log(grant->client_id, shown, sizeof shown),
		                     grant->withdrawn == NULL ? "the token has expired" : grant->withdrawn);
		/* Never with NULL for an id: that would end all connections. */
		mosquitto_kick_client_by_clientid(grant->client_id, true);
	}
}

/* Called after every turn of the broker's loop, at least ten times a second. Not from within a check: there the broker
 * still holds on to the client that would be ended. */
static int on_tick(int event, void *event_data, void *userdata)
{
	struct plugin *plugin = userdata;
	/* The event brings no time in Mosquitto 2.0. */
	time_t now = time(NULL);

	(void)event;
	(void)event_data;
	plugin->last_tick = monotonic_seconds();
	plugin->ticking = true;
	plugin->order_unstamped = false;
	if (now != plugin->last_look || plugin->reloading) {
		plugin->last_look = now;
		end_connections(plugin, now);
		grants_forget(plugin->grants, now);
	}
	plugin->reloading = false;
	return MOSQ_ERR_SUCCESS;
}

/* --- beginning and end ---------------------------------------------------------------------------------- */

static bool read_option(struct plugin *plugin, const struct mosquitto_opt *option)
{
	char **target = strcmp(option->key, "key_file") == 0            ? &plugin->key_file
	                : strcmp(option->key, "previous_key_file") == 0 ? &plugin->previous_key_file
	                                                                : NULL;

	if (target == NULL) {
		mosquitto_log_printf(MOSQ_LOG_ERR,
		                     "jwt-auth: unknown option plugin_opt_%s; known are plugin_opt_key_file and "
		                     "plugin_opt_previous_key_file",
		                     option->key);
		return false;
	}
	free(*target);
	/* The broker may drop its copy. */
	*target = option->value == NULL ? NULL : strdup(option->value);
	return *target != NULL;
}

static bool read_options(struct plugin *plugin, const struct mosquitto_opt *options, int count)
{
	for (int i = 0; i < count; i++) {
		if (!read_option(plugin, &options[i])) {
			return false;
		}
	}
	if (plugin->key_file == NULL) {
		mosquitto_log_printf(MOSQ_LOG_ERR, "jwt-auth: plugin_opt_key_file must be set to the file with the key");
		return false;
	}
	return true;
}

static bool register_events(struct plugin *plugin)
{
	static const struct {
		int event;
		MOSQ_FUNC_generic_callback callback;
	} EVENTS[] = {
		{MOSQ_EVT_RELOAD, on_reload},         {MOSQ_EVT_BASIC_AUTH, on_basic_auth},
		{MOSQ_EVT_ACL_CHECK, on_acl_check},   {MOSQ_EVT_MESSAGE, on_message},
		{MOSQ_EVT_DISCONNECT, on_disconnect}, {MOSQ_EVT_TICK, on_tick},
	};

	for (size_t i = 0; i < sizeof EVENTS / sizeof *EVENTS; i++) {
		int failed = mosquitto_callback_register(plugin->id, EVENTS[i].event, EVENTS[i].callback, NULL, plugin);

		if (failed != MOSQ_ERR_SUCCESS) {
			mosquitto_log_printf(MOSQ_LOG_ERR, "jwt-auth: this broker does not offer event %d",
			                     EVENTS[i].event);
			return false;
		}
	}
	return true;
}

static void plugin_free(struct plugin *plugin)
{
	keyring_free(&plugin->keyring);
	grants_free(plugin->grants);
	free(plugin->key_file);
	free(plugin->previous_key_file);
	free(plugin);
}

EXPORTED int mosquitto_plugin_version(int supported_version_count, const int *supported_versions)
{
	for (int i = 0; i < supported_version_count; i++) {
		if (supported_versions[i] == MOSQ_PLUGIN_VERSION) {
			return MOSQ_PLUGIN_VERSION;
		}
	}
	return -1;
}

EXPORTED int mosquitto_plugin_init(mosquitto_plugin_id_t *identifier, void **userdata, struct mosquitto_opt *options,
                                   int option_count)
{
	struct plugin *plugin = calloc(1, sizeof *plugin);

	if (plugin == NULL) {
		return MOSQ_ERR_NOMEM;
	}
	plugin->id = identifier;
	plugin->last_tick = monotonic_seconds();
	plugin->grants = grants_new();
	if (plugin->grants == NULL || !read_options(plugin, options, option_count) || !load_keys(plugin) ||
	    !register_events(plugin)) {
		/* The broker ends itself. It may have been given callbacks by now, so nothing of theirs is freed. */
		keyring_free(&plugin->keyring);
		return MOSQ_ERR_INVAL;
	}
	*userdata = plugin;
	return MOSQ_ERR_SUCCESS;
}

EXPORTED int mosquitto_plugin_cleanup(void *userdata, struct mosquitto_opt *options, int option_count)
{
	(void)options;
	(void)option_count;
	if (userdata != NULL) {
		plugin_free(userdata);
	}
	return MOSQ_ERR_SUCCESS;
}
