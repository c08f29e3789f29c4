#include "broker.h"

#include <string.h>

#define VERSION(major, minor, revision) ((major) * 1000000 + (minor) * 1000 + (revision))

/* Exported by brokers from 2.1.0 on, and by no library: the connected or kept session of that id. */
struct mosquitto *mosquitto_client(const char *client_id);
#pragma weak mosquitto_client

static bool broker_is_2_1(void)
{
	return mosquitto_client != NULL;
}

/* A broker tells a plugin nothing about its version. But it comes from one source with libmosquitto, and the packages
 * of Debian and Ubuntu depend on a libmosquitto of exactly their own version. */
static int version(void)
{
	return mosquitto_lib_version(NULL, NULL, NULL);
}

/* Properties are read by functions of libmosquitto where the broker exports none (2.0 from 2.0.20 on). Their layout is
 * private and changed with 2.1, so libmosquitto must not be of another line than the broker. */
bool broker_is_known(void)
{
	if ((version() >= VERSION(2, 1, 0)) == broker_is_2_1()) {
		return true;
	}
	mosquitto_log_printf(MOSQ_LOG_ERR, "jwt-auth: libmosquitto is of version %d.%d, but the broker is %s than 2.1: "
	                                   "install both from one source",
	                     version() / 1000000, version() / 1000 % 1000, broker_is_2_1() ? "not older" : "older");
	return false;
}

/* Up to 2.0.14 the broker took the new list and forgot the old one. 2.0.15 mended that ("potential memory leaks if a
 * plugin modifies the message in the MOSQ_EVT_MESSAGE event", says its change log), so since then the list that was
 * there before is the broker's to free. */
bool broker_frees_replaced_properties(void)
{
	return version() >= VERSION(2, 0, 15);
}

bool broker_has_event(int event)
{
	return event != BROKER_EVT_CLIENT_OFFLINE || broker_is_2_1();
}

/* In 2.0 any other answer than "defer" keeps the broker from asking the plugins after this one. In 2.1 any other answer
 * than success is an error, which ends the broker. */
int broker_reload_answer(void)
{
	return broker_is_2_1() ? MOSQ_ERR_SUCCESS : MOSQ_ERR_PLUGIN_DEFER;
}

/* Ending a session that has no connection does nothing more than this. But one that was read from disk and was not
 * connected since must not be ended: 2.0 then enters it a second time into its list of sessions that end. */
bool broker_keeps_session(const char *client_id)
{
	return mosquitto_kick_client_by_clientid(client_id, true) == MOSQ_ERR_SUCCESS;
}

/* 2.0 has no function that tells. There only a CONNECT packet sets the version, so a client without one is a session
 * read from disk. And between a reload and the next tick new connections come through libwebsockets only, where a
 * session without connection counts as none. (Even if one came in another way, it would have no rights: it gets no
 * grant.)
 *
 * 2.1 enters a client in its table when the login has succeeded. Its websockets may be its own, which look the same
 * when the connection is gone. */
bool broker_asks_again(const struct mosquitto *client, bool reloading, bool is_connected)
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

/* Brokers after 2.0.11 name the client by its id when they close the connection, and people do put their token there.
 * Overwriting is the only way that all versions have (2.1 has mosquitto_set_clientid), and is safe before a login has
 * succeeded: the id is the broker's own copy, and not yet the key of a table. */
void broker_hide_client_id(const struct mosquitto *client)
{
	char *id = (char *)mosquitto_client_id(client);

	if (id != NULL) {
		memset(id, '?', strlen(id));
	}
}
