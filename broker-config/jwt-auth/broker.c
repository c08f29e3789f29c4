#include "broker.h"

#include <string.h>

#define VERSION(major, minor, revision) ((major) * 1000000 + (minor) * 1000 + (revision))

/* Returns the session of that id, connected or kept. Exported by brokers since 2.1.0, and by no library. */
struct mosquitto *mosquitto_client(const char *client_id);
#pragma weak mosquitto_client

static bool broker_is_2_1(void)
{
	return mosquitto_client != NULL;
}

/* A plugin cannot query the broker's version. But the broker and libmosquitto are built from the same source, and the
 * broker's packages in Debian and Ubuntu depend on exactly their own version of libmosquitto. */
static int version(void)
{
	return mosquitto_lib_version(NULL, NULL, NULL);
}

/* If the broker exports no functions that read properties (2.0 since 2.0.20), the plugin uses those of libmosquitto.
 * The layout of properties is private and changed in 2.1, so both must be older than 2.1, or neither. */
bool broker_matches_library(void)
{
	if ((version() >= VERSION(2, 1, 0)) == broker_is_2_1()) {
		return true;
	}
	mosquitto_log_printf(MOSQ_LOG_ERR, "jwt-auth: libmosquitto is of version %d.%d, but the broker is %s: "
	                                   "install both from the same source",
	                     version() / 1000000, version() / 1000 % 1000,
	                     broker_is_2_1() ? "2.1 or newer" : "older than 2.1");
	return false;
}

/* Up to 2.0.14 the broker leaked the replaced list. 2.0.15 frees it ("potential memory leaks if a plugin modifies the
 * message in the MOSQ_EVT_MESSAGE event", says its change log). */
bool broker_frees_replaced_properties(void)
{
	return version() >= VERSION(2, 0, 15);
}

bool broker_has_event(int event)
{
	return event != BROKER_EVT_CLIENT_OFFLINE || broker_is_2_1();
}

/* In 2.0 any result other than "defer" keeps the broker from calling the plugins after this one. In 2.1 any result
 * other than success is an error, which ends the broker. */
int broker_reload_result(void)
{
	return broker_is_2_1() ? MOSQ_ERR_SUCCESS : MOSQ_ERR_PLUGIN_DEFER;
}

/* Kicking a client that has no connection only checks for its session. But a session that was read from disk and not
 * connected since must not be kicked: 2.0 then adds it to its list of expiring sessions a second time. */
bool broker_keeps_session(const char *client_id)
{
	return mosquitto_kick_client_by_clientid(client_id, true) == MOSQ_ERR_SUCCESS;
}

/* 2.0 has no function for this. There only a CONNECT packet sets the protocol version, so a client without one is a
 * session read from disk. Between a reload and the next tick, new connections come through libwebsockets only, and a
 * session without a connection is not reported as websockets. (A new connection that came in another way would have no
 * permissions, since it gets no grant.)
 *
 * 2.1 adds a client to its table after a successful login. The protocol would not do: with 2.1's own implementation of
 * websockets, it stays the same when the connection has ended. */
bool broker_is_rechecking(const struct mosquitto *client, bool reloading, bool is_connected)
{
	const char *id = mosquitto_client_id(client);

	if (broker_is_2_1()) {
		return id != NULL && mosquitto_client(id) == client;
	}
	if (mosquitto_client_protocol_version(client) == 0) {
		return true;
	}
	return reloading && id != NULL && (is_connected || mosquitto_client_protocol(client) != mp_websockets);
}

/* Brokers after 2.0.11 log the client's id when they close the connection, and people do put their token there.
 * Overwriting it is the only way that works in all versions (2.1 has mosquitto_set_clientid), and is safe before a
 * login has succeeded: the id is the broker's own copy, and not yet the key of a table. */
void broker_mask_client_id(const struct mosquitto *client)
{
	char *id = (char *)mosquitto_client_id(client);

	if (id != NULL) {
		memset(id, '?', strlen(id));
	}
}
