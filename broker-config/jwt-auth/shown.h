/* What clients have chosen, client ids and topics, as the log may show it. People do put secrets into the wrong field. */
#ifndef NTPPOOL_SHOWN_H
#define NTPPOOL_SHOWN_H

#include <stdbool.h>
#include <stddef.h>

#include "keys.h"

/* Whether a token, a private key or a part of one of our secrets may stand in the text. */
bool shown_is_secret(const struct keyring *keyring, const char *text);

/* `text` for the log: cut, without what a terminal obeys, and not at all when it is NULL or may hold a secret.
 * Returns `out`. */
const char *shown_text(const struct keyring *keyring, const char *text, char *out, size_t size);

#endif
