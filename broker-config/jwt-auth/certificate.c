#include "certificate.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "identity.h"

static bool is_dns_name(const GENERAL_NAME *name)
{
	return name->type == GEN_DNS && ASN1_STRING_type(name->d.dNSName) == V_ASN1_IA5STRING;
}

/* The name may contain any bytes, also NUL: compare it by its length. */
static bool is_dns_name_equal(const GENERAL_NAME *name, const char *wanted)
{
	size_t length = strlen(wanted);

	return is_dns_name(name) && ASN1_STRING_length(name->d.dNSName) == (int)length &&
	       memcmp(ASN1_STRING_get0_data(name->d.dNSName), wanted, length) == 0;
}

static const char *monitor_refusal(const GENERAL_NAMES *names, const char *subject)
{
	if (sk_GENERAL_NAME_num(names) == 1 && is_dns_name_equal(sk_GENERAL_NAME_value(names, 0), subject)) {
		return NULL;
	}
	return "the certificate is not that of the token's subject";
}

/* Whether the name is a monitor's. A name that no monitor can have, but another program might read as one (it contains
 * a NUL, say), counts as such. */
static bool may_be_monitors(const GENERAL_NAME *name)
{
	char text[MAX_NAME_LENGTH + 1];
	int length;

	if (name->type != GEN_DNS) {
		return false;
	}
	length = ASN1_STRING_length(name->d.dNSName);
	if (!is_dns_name(name) || length < 1 || length > MAX_NAME_LENGTH) {
		return true;
	}
	memcpy(text, ASN1_STRING_get0_data(name->d.dNSName), (size_t)length);
	text[length] = '\0';
	return strlen(text) != (size_t)length || identity_is_monitors(text);
}

static const char *pool_refusal(const GENERAL_NAMES *names)
{
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		if (may_be_monitors(sk_GENERAL_NAME_value(names, i))) {
			return "the certificate is a monitor's, but the token is not";
		}
	}
	return NULL;
}

/* Reads the one extension with names; `*names` is NULL if there is none. Returns false if there are several, or if its
 * content is anything else, also if something follows the names. */
static bool read_names(const X509 *certificate, GENERAL_NAMES **names)
{
	int at = X509_get_ext_by_NID(certificate, NID_subject_alt_name, -1);

	*names = NULL;
	if (at < 0) {
		return true;
	}
	const ASN1_OCTET_STRING *content = X509_EXTENSION_get_data(X509_get_ext(certificate, at));
	const unsigned char *begin = ASN1_STRING_get0_data(content), *end = begin;
	int length = ASN1_STRING_length(content);

	/* The broker reads OpenSSL's queue of errors after each operation, so leave none behind. */
	ERR_set_mark();
	*names = d2i_GENERAL_NAMES(NULL, &end, length);
	ERR_pop_to_mark();
	return *names != NULL && end == begin + length &&
	       X509_get_ext_by_NID(certificate, NID_subject_alt_name, at) < 0;
}

const char *certificate_refusal(const X509 *certificate, const struct claims *claims)
{
	GENERAL_NAMES *names;
	const char *reason = "the names of the certificate cannot be read";

	if (read_names(certificate, &names)) {
		/* sk_GENERAL_NAME_num(NULL) is -1. */
		reason = claims->rules->is_monitor ? monitor_refusal(names, claims->name) : pool_refusal(names);
	}
	GENERAL_NAMES_free(names);
	return reason;
}
