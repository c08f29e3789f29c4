/* The name of the sender as a user property of an order, which nobody but the broker can write. */
#ifndef NTPPOOL_STAMP_H
#define NTPPOOL_STAMP_H

#include <mosquitto_broker.h>
#include <stdbool.h>

/* Replaces the list by one without the properties called "sender" that the client wrote, and with ours. False when
 * memory is short; then the list is as it was. */
bool stamp_sender(mosquitto_property **properties, const char *name);

#endif
