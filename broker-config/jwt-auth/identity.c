#include "identity.h"

#include <string.h>
#include <strings.h>

static bool is_control(unsigned char c)
{
	return c < 0x20 || c == 0x7f;
}

bool identity_name_is_valid(const char *name)
{
	size_t length = strlen(name);

	if (length == 0 || length > MAX_NAME_LENGTH || strpbrk(name, "+#/") != NULL) {
		return false;
	}
	for (size_t i = 0; i < length; i++) {
		if (is_control((unsigned char)name[i])) {
			return false;
		}
	}
	return true;
}

bool identity_owns_client_id(const char *name, const char *id)
{
	size_t length = strlen(name);

	return strncmp(id, name, length) == 0 && (id[length] == '\0' || id[length] == '/') && strpbrk(id, "+#") == NULL &&
	       strnlen(id, MAX_CLIENT_ID_LENGTH + 1) <= MAX_CLIENT_ID_LENGTH;
}

bool identity_is_monitors(const char *name)
{
	static const char *const ENVIRONMENTS[] = {"prod", "test", "devel"};
	const char *second = strchr(name, '.');
	size_t length = second == NULL ? 0 : strcspn(++second, ".");

	if (second == NULL || second[length] != '.') {
		return false;
	}
	for (size_t i = 0; i < sizeof ENVIRONMENTS / sizeof *ENVIRONMENTS; i++) {
		if (strlen(ENVIRONMENTS[i]) == length && strncasecmp(second, ENVIRONMENTS[i], length) == 0) {
			return true;
		}
	}
	return false;
}
