/* The name of the sender as a user property of an order, which nobody but the broker can write. */
#ifndef NTPPOOL_STAMP_H
#define NTPPOOL_STAMP_H

#include <stdbool.h>

#include "broker.h"

/* Adds the property "sender" to the list of a message that the broker is being told of, and takes out those of that name
 * which the client wrote. False when memory is short; then the list is as it was. */
bool stamp_sender(mosquitto_property **properties, const char *name);

#endif
