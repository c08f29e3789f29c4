#include "broker.h"

#define VERSION(major, minor, revision) ((major) * 1000000 + (minor) * 1000 + (revision))

/* Exported by brokers from 2.1.0 on, and by no library. */
int mosquitto_plugin_set_info(mosquitto_plugin_id_t *identifier, const char *name, const char *version);
#pragma weak mosquitto_plugin_set_info

static bool broker_is_2_1(void)
{
	return mosquitto_plugin_set_info != NULL;
}

/* A broker tells a plugin nothing about its version. But it comes from one source with libmosquitto, and the packages of
 * Debian and Ubuntu depend on a libmosquitto of exactly their own version. */
static int version(void)
{
	return mosquitto_lib_version(NULL, NULL, NULL);
}

/* Properties are read by functions of libmosquitto where the broker exports none (2.0.20 to 2.0.22). Their layout is
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

/* In 2.0 any other answer than "defer" keeps the broker from asking the plugins after this one. In 2.1 any other answer
 * than success is an error, which ends the broker. */
int broker_reload_answer(void)
{
	return broker_is_2_1() ? MOSQ_ERR_SUCCESS : MOSQ_ERR_PLUGIN_DEFER;
}
