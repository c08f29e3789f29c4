/* Mosquitto's interface, of every version that the plugin is used with, and what these versions do differently.
 *
 * The plugin may be compiled with the headers of one version and be loaded by another one, so the differences are
 * asked for when it is loaded. */
#ifndef NTPPOOL_BROKER_H
#define NTPPOOL_BROKER_H

#include <mosquitto.h>

/* From 2.1 on this header brings all the others, and those warn when they are included by name. */
#if LIBMOSQUITTO_VERSION_NUMBER < 2001000
#include <mosquitto_broker.h>
#include <mosquitto_plugin.h>
#include <mqtt_protocol.h>
#endif

#include <stdbool.h>

/* False when the broker and the loaded libmosquitto are of different versions; the reason is logged. */
bool broker_is_known(void);

/* Whether the broker frees a message's list of properties when MOSQ_EVT_MESSAGE has put another one in its place. */
bool broker_frees_replaced_properties(void);

/* Told instead of MOSQ_EVT_DISCONNECT from 2.1 on, with the same data, when the session outlasts its connection. */
#define BROKER_EVT_CLIENT_OFFLINE 28

/* Whether the broker tells plugins of the event. */
bool broker_has_event(int event);

/* The answer to MOSQ_EVT_RELOAD after which the broker goes on with all that it reloads. */
int broker_reload_answer(void);

/* Whether the broker keeps a session of that id, which must not be connected and must have left in this life of the
 * broker. As a side effect the broker may ask for the right to each of its subscriptions, and removes what is denied. */
bool broker_keeps_session(const char *client_id);

/* Whether a login is none, but the broker asking again, after a reload, for a session that it has, connected or not.
 * `reloading` is true from the reload to the next tick, `is_connected` when the client is known to be. */
bool broker_asks_again(const struct mosquitto *client, bool reloading, bool is_connected);

/* Makes the id of a client that is being refused unreadable, for the broker's own log. */
void broker_hide_client_id(const struct mosquitto *client);

#endif
