/* The sender's name in a control command: a user property that only the broker can set. */
#ifndef NTPPOOL_STAMP_H
#define NTPPOOL_STAMP_H

#include <stdbool.h>

#include "broker.h"

/* Adds the property "sender" to a message's list, and removes those of that name from the client. May only be called in
 * a handler of MOSQ_EVT_MESSAGE. Returns false and changes nothing if memory is short. */
bool stamp_sender(mosquitto_property **properties, const char *name);

#endif
