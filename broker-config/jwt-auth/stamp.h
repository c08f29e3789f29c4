/* The name of the sender as a user property of an order, which nobody but the broker can write. */
#ifndef NTPPOOL_STAMP_H
#define NTPPOOL_STAMP_H

#include <stdbool.h>

#include "broker.h"

/* Adds the property "sender" to a message's list, and takes out those of that name which the client wrote. To be called
 * while the broker tells of the message only. False when memory is short; then the list is as it was. */
bool stamp_sender(mosquitto_property **properties, const char *name);

#endif
