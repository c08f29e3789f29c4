/* Whether the certificate that a client has shown may be used with its token. The broker has verified the certificate;
 * this reads its names. Does not depend on a broker. */
#ifndef NTPPOOL_CERTIFICATE_H
#define NTPPOOL_CERTIFICATE_H

#include <openssl/x509.h>

#include "token.h"

/* Returns NULL, or the reason for refusing the login, which is safe to log.
 *
 * A monitor's certificate must have the token's subject as its one and only name. The names of other roles' clients are
 * those of hosts and people, which say nothing about the subject ("ingest"); but a certificate of a monitor does not
 * serve for another role, since every host of a monitor has one. */
const char *certificate_refusal(const X509 *certificate, const struct claims *claims);

#endif
