/* Shared by the parts of the plugin that depend on the broker. */
#ifndef NTPPOOL_PLUGIN_H
#define NTPPOOL_PLUGIN_H

#include <pthread.h>
#include <stdbool.h>
#include <time.h>

#include "broker.h"
#include "grants.h"
#include "keys.h"
#include "revocations.h"

#define LOG_NAME_BYTES 128  /* of a client id */
#define LOG_TOPIC_BYTES 256

struct plugin {
	mosquitto_plugin_id_t *id;
	pthread_t thread; /* of the broker's loop */
	char *key_file;
	char *previous_key_file;
	char *revocations_file; /* may be NULL */
	struct keyring keyring;
	struct grants *grants;
	struct revocations revocations;
	bool revocations_unsaved; /* the file could not be written, or read without loss */
	int revocations_left;     /* how many new ones are accepted now */
	time_t revocations_given; /* when that number was last increased, by the monotonic clock */
	time_t last_look;       /* last check of the grants, due every second and after a client has left */
	time_t last_tick;       /* by the monotonic clock; before the first tick, the time of the start */
	bool ticking;
	bool key_was_withdrawn; /* since the start */
	bool reloading;         /* between the reload of the keys and the next tick */
	bool command_unstamped; /* between the check of a control command and its stamp */
};

/* Handlers of the broker's events; `userdata` is the plugin. */
int on_basic_auth(int event, void *event_data, void *userdata);
int on_disconnect(int event, void *event_data, void *userdata);
int on_acl_check(int event, void *event_data, void *userdata);
int on_message(int event, void *event_data, void *userdata);
int on_reload(int event, void *event_data, void *userdata);
int on_tick(int event, void *event_data, void *userdata);

/* Loads the revocations of an earlier run. */
void begin_revocations(struct plugin *plugin);

/* Obeys a revocation that a client has sent. Returns whether it did; if not, it has logged the reason. */
bool obey_revocation(struct plugin *plugin, const struct grant *sender, const struct mosquitto_evt_message *message);

time_t monotonic_seconds(void);

#endif
