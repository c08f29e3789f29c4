/* Mosquitto plugin: a client's password is a JWT signed by the pool, its user name the token's subject. The token
 * contains its permissions to publish and to subscribe.
 *
 * This file, login.c, requests.c, revoke.c and stamp.c connect the broker's events with the parts that do not depend on
 * a broker. Facts about Mosquitto (the oldest supported version is 2.0.11) are stated where they matter; broker.c has
 * the differences between its versions. */
#include "plugin.h"

#include <stdlib.h>
#include <string.h>

#include "shown.h"

#define EXPORTED __attribute__((visibility("default")))

time_t monotonic_seconds(void)
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

static bool key_was_removed(const struct keyring *keyring, const struct keyring *before)
{
	for (size_t i = 0; i < before->count; i++) {
		if (!keyring_has(keyring, before->keys[i].serial)) {
			return true;
		}
	}
	return false;
}

static bool load_keys(struct plugin *plugin)
{
	struct keyring keyring;
	struct load_error error;

	if (!keyring_load(plugin->key_file, plugin->previous_key_file, &keyring, &error)) {
		mosquitto_log_printf(MOSQ_LOG_ERR, "jwt-auth: %s", error.text);
		return false;
	}
	keyring_number(&keyring, &plugin->keyring);
	plugin->key_was_withdrawn = plugin->key_was_withdrawn || key_was_removed(&keyring, &plugin->keyring);
	keyring_free(&plugin->keyring);
	plugin->keyring = keyring;
	grants_withdraw(plugin->grants, &plugin->keyring);
	log_keys(&keyring);
	return true;
}

int on_reload(int event, void *event_data, void *userdata)
{
	struct plugin *plugin = userdata;

	(void)event;
	(void)event_data;
	if (!load_keys(plugin)) {
		mosquitto_log_printf(MOSQ_LOG_ERR, "jwt-auth: the keys that were loaded before stay in use");
	}
	/* Only a tick resets this, so never set it in a broker that sends none. */
	plugin->reloading = plugin->ticking;
	return broker_reload_result();
}

/* --- expiry --------------------------------------------------------------------------------------------- */

static const char *reason_to_end(const struct grant *grant)
{
	if (grant->revoked) {
		return "the token has been revoked";
	}
	return grant->withdrawn ? "the token is not signed with a key that is valid here" : "the token has expired";
}

static void end_connections(struct plugin *plugin, time_t now)
{
	char shown[LOG_NAME_BYTES];
	struct grant *grant;

	while ((grant = grants_next_to_end(plugin->grants, now)) != NULL) {
		mosquitto_log_printf(MOSQ_LOG_NOTICE, "jwt-auth: %s is disconnected: %s",
		                     shown_text(&plugin->keyring, grant->client_id, shown, sizeof shown),
		                     reason_to_end(grant));
		/* A NULL id would end all connections. */
		mosquitto_kick_client_by_clientid(grant->client_id, true);
	}
}

/* Called after each iteration of the broker's loop, at least ten times a second. A check cannot end connections, since
 * the broker is still using the client then. */
int on_tick(int event, void *event_data, void *userdata)
{
	struct plugin *plugin = userdata;
	/* In Mosquitto 2.0 the event has no time. */
	time_t now = time(NULL);

	(void)event;
	(void)event_data;
	plugin->last_tick = monotonic_seconds();
	plugin->ticking = true;
	plugin->command_unstamped = false;
	if (now != plugin->last_look || plugin->reloading) {
		plugin->last_look = now;
		end_connections(plugin, now);
		grants_forget(plugin->grants, now, broker_keeps_session);
	}
	plugin->reloading = false;
	return MOSQ_ERR_SUCCESS;
}

/* --- initialization and cleanup ------------------------------------------------------------------------- */

static char **target_of(struct plugin *plugin, const char *key)
{
	if (strcmp(key, "key_file") == 0) {
		return &plugin->key_file;
	}
	if (strcmp(key, "previous_key_file") == 0) {
		return &plugin->previous_key_file;
	}
	return strcmp(key, "revocations_file") == 0 ? &plugin->revocations_file : NULL;
}

static bool read_option(struct plugin *plugin, const struct mosquitto_opt *option)
{
	char **target = target_of(plugin, option->key);

	if (target == NULL) {
		mosquitto_log_printf(MOSQ_LOG_ERR,
		                     "jwt-auth: unknown option plugin_opt_%s; known are plugin_opt_key_file, "
		                     "plugin_opt_previous_key_file and plugin_opt_revocations_file",
		                     option->key);
		return false;
	}
	free(*target);
	/* The broker may free its copy. */
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

static const struct {
	int event;
	MOSQ_FUNC_generic_callback callback;
} EVENTS[] = {
	{MOSQ_EVT_RELOAD, on_reload},   {MOSQ_EVT_BASIC_AUTH, on_basic_auth}, {MOSQ_EVT_ACL_CHECK, on_acl_check},
	{MOSQ_EVT_MESSAGE, on_message}, {MOSQ_EVT_DISCONNECT, on_disconnect}, {BROKER_EVT_CLIENT_OFFLINE, on_disconnect},
	{MOSQ_EVT_TICK, on_tick},
};
#define EVENT_COUNT (sizeof EVENTS / sizeof *EVENTS)

static bool register_events(struct plugin *plugin)
{
	for (size_t i = 0; i < EVENT_COUNT; i++) {
		if (broker_has_event(EVENTS[i].event) &&
		    mosquitto_callback_register(plugin->id, EVENTS[i].event, EVENTS[i].callback, NULL, plugin) !=
			    MOSQ_ERR_SUCCESS) {
			mosquitto_log_printf(MOSQ_LOG_ERR, "jwt-auth: this broker does not support event %d",
			                     EVENTS[i].event);
			return false;
		}
	}
	return true;
}

static void unregister_events(struct plugin *plugin)
{
	for (size_t i = 0; i < EVENT_COUNT; i++) {
		if (broker_has_event(EVENTS[i].event)) {
			mosquitto_callback_unregister(plugin->id, EVENTS[i].event, EVENTS[i].callback, NULL);
		}
	}
}

static void plugin_free(struct plugin *plugin)
{
	keyring_free(&plugin->keyring);
	grants_free(plugin->grants);
	revocations_free(&plugin->revocations);
	free(plugin->key_file);
	free(plugin->previous_key_file);
	free(plugin->revocations_file);
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
	if (!broker_matches_library()) {
		return MOSQ_ERR_INVAL;
	}
	struct plugin *plugin = calloc(1, sizeof *plugin);

	if (plugin == NULL) {
		return MOSQ_ERR_NOMEM;
	}
	plugin->id = identifier;
	plugin->thread = pthread_self();
	plugin->last_tick = monotonic_seconds();
	plugin->grants = grants_new();
	if (plugin->grants == NULL || !read_options(plugin, options, option_count) || !load_keys(plugin) ||
	    !register_events(plugin)) {
		unregister_events(plugin);
		plugin_free(plugin);
		return MOSQ_ERR_INVAL;
	}
	begin_revocations(plugin);
	*userdata = plugin;
	return MOSQ_ERR_SUCCESS;
}

EXPORTED int mosquitto_plugin_cleanup(void *userdata, struct mosquitto_opt *options, int option_count)
{
	(void)options;
	(void)option_count;
	if (userdata != NULL) {
		unregister_events(userdata);
		plugin_free(userdata);
	}
	return MOSQ_ERR_SUCCESS;
}
