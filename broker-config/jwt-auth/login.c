/* Logging in and out. */
#include <string.h>

#include "identity.h"
#include "plugin.h"
#include "shown.h"
#include "token.h"

#ifndef TICK_MISSED_SECONDS
#define TICK_MISSED_SECONDS 60
#endif

/* The session that is called as its owner is always let in: nobody who has a token of that name, or had, can take all
 * the room and keep the owner out. */
static bool has_room(const struct grants *grants, const struct claims *claims, const char *id)
{
	return grants_find(grants, id) != NULL || strcmp(id, claims->name) == 0 ||
	       grants_of(grants, claims->name) < claims->rules->sessions;
}

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
	if (!claims->rules->may_use_old_protocol && mosquitto_client_protocol_version(login->client) != 5) {
		return "monitors must speak MQTT 5";
	}
	if (!has_room(plugin->grants, claims, id)) {
		return "the user name has too many sessions, connected or kept";
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

	if (id != NULL && shown_is_secret(&plugin->keyring, id)) {
		broker_hide_client_id(login->client);
		id = NULL;
	}
	mosquitto_log_printf(MOSQ_LOG_NOTICE, "jwt-auth: login of %s from %s refused: %s",
	                     shown_text(&plugin->keyring, id, shown, sizeof shown), address == NULL ? "nowhere" : address, fault);
	return MOSQ_ERR_AUTH;
}

int on_basic_auth(int event, void *event_data, void *userdata)
{
	struct plugin *plugin = userdata;
	struct mosquitto_evt_basic_auth *login = event_data;

	(void)event;
	/* The HTTP interface of Mosquitto 2.1 asks from a thread of its own, which must not touch what is here. */
	if (!pthread_equal(pthread_self(), plugin->thread)) {
		return MOSQ_ERR_AUTH;
	}
	const char *id = mosquitto_client_id(login->client);
	struct grant *grant = id == NULL ? NULL : grants_find(plugin->grants, id);
	bool is_connected = grant != NULL && grant->client == login->client;

	/* After a reload the broker asks again for every session it knows. Refusing one that has no connection corrupts
	 * Mosquitto's list of expiring sessions (it is entered a second time, and freed once). Those whose key was
	 * withdrawn have lost their rights already, and a connection is ended at the next tick, which, other than a
	 * refusal here, tells the client why. */
	if (broker_asks_again(login->client, plugin->reloading, is_connected)) {
		return MOSQ_ERR_SUCCESS;
	}
	return log_in(plugin, login);
}

int on_disconnect(int event, void *event_data, void *userdata)
{
	struct plugin *plugin = userdata;
	struct mosquitto_evt_disconnect *over = event_data;
	const char *id = mosquitto_client_id(over->client);

	(void)event;
	if (id != NULL) {
		grants_leave(plugin->grants, id, over->client, time(NULL));
		plugin->last_look = 0;
	}
	return MOSQ_ERR_SUCCESS;
}
