/* Fuzzes the check of certificates: an input is a certificate (DER), or the content of the extension with its names. */
#include <openssl/x509v3.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "certificate.h"

static char NAME[] = "fuzz1-x.test.mon.example";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const X509 *certificate)
{
	struct claims monitor = {.name = NAME, .rules = rules_of("monitor")};
	struct claims server = {.name = NAME, .rules = rules_of("server")};

	/* A monitor's certificate serves for that monitor only. */
	if (certificate_refusal(certificate, &monitor) == NULL && certificate_refusal(certificate, &server) == NULL) {
		abort();
	}
}

static void check_names(const uint8_t *data, size_t size)
{
	X509 *certificate = X509_new();
	ASN1_OCTET_STRING *content = ASN1_OCTET_STRING_new();
	X509_EXTENSION *extension = NULL;

	if (certificate == NULL || content == NULL || ASN1_OCTET_STRING_set(content, data, (int)size) != 1) {
		abort();
	}
	extension = X509_EXTENSION_create_by_NID(NULL, NID_subject_alt_name, 0, content);
	if (extension == NULL || X509_add_ext(certificate, extension, -1) != 1) {
		abort();
	}
	check(certificate);
	X509_EXTENSION_free(extension);
	ASN1_OCTET_STRING_free(content);
	X509_free(certificate);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const unsigned char *at = data;
	X509 *certificate = d2i_X509(NULL, &at, (long)size);

	if (certificate != NULL) {
		check(certificate);
	}
	X509_free(certificate);
	check_names(data, size);
	return 0;
}
