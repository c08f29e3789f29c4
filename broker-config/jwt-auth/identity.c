#include "identity.h"

#include <string.h>

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

	return strncmp(id, name, length) == 0 && (id[length] == '\0' || id[length] == '/') && strpbrk(id, "+#") == NULL;
}

bool identity_quotes_token(const char *id)
{
	/* Every part of a JWT begins with '{"', which is this in base64. */
	return strstr(id, "eyJ") != NULL;
}

const char *identity_for_log(const char *id, char *out, size_t size)
{
	if (id == NULL || identity_quotes_token(id)) {
		id = "(not shown)";
	}
	size_t length = strnlen(id, size - 1);

	/* Not in the middle of a character. */
	while (length > 0 && ((unsigned char)id[length] & 0xc0) == 0x80) {
		length--;
	}
	for (size_t i = 0; i < length; i++) {
		out[i] = is_control((unsigned char)id[i]) ? '?' : id[i];
	}
	out[length] = '\0';
	return out;
}
