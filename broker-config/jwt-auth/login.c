/* Login and disconnection. */
#include <string.h>

#include "certificate.h"
#include "identity.h"
#include "plugin.h"
#include "shown.h"
#include "token.h"

#ifndef TICK_MISSED_SECONDS
#define TICK_MISSED_SECONDS 60
#endif

/* A session whose client id is just the name is always admitted, so that others who have, or had, a token of that name
 * cannot use up all sessions and lock out the owner. */
static bool has_room(const struct grants *grants, const struct claims *claims, const char *id)
{
	return grants_find(grants, id) != NULL || strcmp(id, claims->name) == 0 ||
	       grants_count_sessions(grants, claims->name) < claims->rules->sessions;
}

/* Only a listener that requires certificates asks for one. */
static const char *refusal_of_certificate(const struct mosquitto *client, const struct claims *claims)
{
	X509 *certificate = mosquitto_client_certificate(client);
	const char *reason = certificate == NULL ? NULL : certificate_refusal(certificate, claims);

	X509_free(certificate);
	return reason;
}

static const char *login_refusal(struct plugin *plugin, const struct mosquitto_evt_basic_auth *login,
                                 struct claims *claims)
{
	const char *id = mosquitto_client_id(login->client);

	if (id == NULL || login->username == NULL || login->password == NULL) {
		return "client id, user name and password are required";
	}
	if (monotonic_seconds() - plugin->last_tick > TICK_MISSED_SECONDS) {
		return "the broker sends no tick events, so tokens would never expire: set per_listener_settings to false";
	}
	const char *reason = token_check(login->password, &plugin->keyring, time(NULL), claims);

	if (reason != NULL) {
		return reason;
	}
	if (strcmp(login->username, claims->name) != 0) {
		return "the user name is not the token's subject";
	}
	if (claims->rules->is_monitor &&
	    revocations_refuse(&plugin->revocations, claims->name, claims->issued, time(NULL))) {
		return "the token has been revoked";
	}
	reason = refusal_of_certificate(login->client, claims);
	if (reason != NULL) {
		return reason;
	}
	if (!identity_owns_client_id(claims->name, id)) {
		return "the client id must be the user name, or begin with the user name and a slash";
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
	const char *reason = login_refusal(plugin, login, &claims);

	if (reason == NULL && !grants_enter(plugin->grants, id, &claims, login->client)) {
		reason = "out of memory";
	}
	claims_free(&claims);
	if (reason == NULL) {
		return MOSQ_ERR_SUCCESS;
	}
	const char *address = mosquitto_client_address(login->client);

	if (id != NULL && shown_is_secret(&plugin->keyring, id)) {
		broker_mask_client_id(login->client);
		id = NULL;
	}
	mosquitto_log_printf(MOSQ_LOG_NOTICE, "jwt-auth: login of %s from %s refused: %s",
	                     shown_text(&plugin->keyring, id, shown, sizeof shown),
	                     address == NULL ? "an unknown address" : address, reason);
	return MOSQ_ERR_AUTH;
}

int on_basic_auth(int event, void *event_data, void *userdata)
{
	struct plugin *plugin = userdata;
	struct mosquitto_evt_basic_auth *login = event_data;

	(void)event;
	/* Mosquitto 2.1's HTTP interface calls this in a separate thread, which must not access the plugin's data. */
	if (!pthread_equal(pthread_self(), plugin->thread)) {
		return MOSQ_ERR_AUTH;
	}
	const char *id = mosquitto_client_id(login->client);
	struct grant *grant = id == NULL ? NULL : grants_find(plugin->grants, id);
	bool is_connected = grant != NULL && grant->client == login->client;

	/* After a reload the broker checks each session again. Refusing one that has no connection corrupts Mosquitto's
	 * list of expiring sessions (the session is added a second time, and freed once). Sessions whose token was
	 * withdrawn have no permissions already. Their connections are ended at the next tick, which, unlike a refusal
	 * here, gives the client a reason. */
	if (broker_is_rechecking(login->client, plugin->reloading, is_connected)) {
		return MOSQ_ERR_SUCCESS;
	}
	return log_in(plugin, login);
}

int on_disconnect(int event, void *event_data, void *userdata)
{
	struct plugin *plugin = userdata;
	struct mosquitto_evt_disconnect *disconnect = event_data;
	const char *id = mosquitto_client_id(disconnect->client);

	(void)event;
	if (id != NULL) {
		grants_leave(plugin->grants, id, disconnect->client, time(NULL));
		plugin->last_look = 0;
	}
	return MOSQ_ERR_SUCCESS;
}
