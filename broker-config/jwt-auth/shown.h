/* Makes client ids and topics, which clients choose, safe for the log. People do put secrets into the wrong field. */
#ifndef NTPPOOL_SHOWN_H
#define NTPPOOL_SHOWN_H

#include <stdbool.h>
#include <stddef.h>

#include "keys.h"

/* Whether the text may contain a token, a private key or a part of one of our secrets. */
bool shown_is_secret(const struct keyring *keyring, const char *text);

/* Copies `text` to `out`, truncated to its size and with '?' for each control character. If it is NULL or may contain a
 * secret, a note replaces it. Returns `out`. */
const char *shown_text(const struct keyring *keyring, const char *text, char *out, size_t size);

#endif
