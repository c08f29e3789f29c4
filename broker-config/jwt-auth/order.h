/* Orders to the plugin: messages on the topic /{env}/control/broker/revocations. Pure. */
#ifndef NTPPOOL_ORDER_H
#define NTPPOOL_ORDER_H

#include <stdbool.h>
#include <stddef.h>

#include "identity.h"

#define MAX_ORDER_BYTES 1024

/* "Refuse the tokens of this monitor that were issued at this time or before." */
struct order {
	char name[MAX_NAME_LENGTH + 1];
	long long issued_until; /* Unix time, seconds */
};

/* Parses {"name": "...", "issued_until": 1767322984}. Ignores fields with other names, unless they contain lists or
 * objects. Returns false if the text is anything else. */
bool order_parse(const void *json, size_t length, struct order *out);

#endif
