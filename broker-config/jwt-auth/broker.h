/* Mosquitto's interface, and the differences between the supported versions.
 *
 * The plugin may be compiled with the headers of one version and loaded by another, so the differences are determined
 * at run time. */
#ifndef NTPPOOL_BROKER_H
#define NTPPOOL_BROKER_H

#include <mosquitto.h>

/* Since 2.1 this header includes the others, which warn if they are included directly. */
#if LIBMOSQUITTO_VERSION_NUMBER < 2001000
#include <mosquitto_broker.h>
#include <mosquitto_plugin.h>
#include <mqtt_protocol.h>
#endif

#include <stdbool.h>

/* Whether the versions of the broker and of the loaded libmosquitto match; if not, logs an error. */
bool broker_matches_library(void);

/* Whether the broker frees a message's list of properties after a handler of MOSQ_EVT_MESSAGE has replaced it. */
bool broker_frees_replaced_properties(void);

/* Sent instead of MOSQ_EVT_DISCONNECT since 2.1, with the same data, if the session outlasts its connection. */
#define BROKER_EVT_CLIENT_OFFLINE 28

bool broker_has_event(int event);

/* The result of MOSQ_EVT_RELOAD with which the broker continues its reload. */
int broker_reload_result(void);

/* Whether the broker keeps a session of that id, which must not be connected, but must have been since the broker's
 * start. As a side effect the broker may check each of its subscriptions, and removes those that are denied. */
bool broker_keeps_session(const char *client_id);

/* Whether a login is in fact the broker's check, after a reload, of a session that it has, connected or not.
 * `reloading` is true between the reload and the next tick, `is_connected` if the client is known to be connected. */
bool broker_is_rechecking(const struct mosquitto *client, bool reloading, bool is_connected);

/* Masks the id of a client that is being refused, since the broker would log it. */
void broker_mask_client_id(const struct mosquitto *client);

#endif
