/* Names and client ids. With version 5 of the plugin interface, Mosquitto itself does not check them for wildcards. */
#ifndef NTPPOOL_IDENTITY_H
#define NTPPOOL_IDENTITY_H

#include <stdbool.h>

#define MAX_NAME_LENGTH 253 /* of a domain name, RFC 1035 */

/* Whether the name is valid as a token's subject: one level of a topic, without wildcards and control characters. */
bool identity_name_is_valid(const char *name);

#define MAX_CLIENT_ID_LENGTH 512 /* a name and a suffix; the broker stores it for each session */

/* Whether `id` is the name, or the name, a slash and any text, without wildcards and not too long. */
bool identity_owns_client_id(const char *name, const char *id);

/* Whether the name has the form of a monitor's, <short>.<environment>.<domain>, with letters of any case. */
bool identity_is_monitors(const char *name);

#endif
