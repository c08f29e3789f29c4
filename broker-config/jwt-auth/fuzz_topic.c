/* Fuzzes the parsers of filters and topics. An input is two texts, separated by a NUL. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "filters.h"
#include "identity.h"
#include "shown.h"
#include "topic.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const char *one, const char *two)
{
	char shown[32];
	struct filters filters;

	if (topic_filter_is_valid(one) && topic_filter_is_valid(two) && topic_filter_covers(one, two) &&
	    topic_filter_covers(two, one) && strcmp(one, two) != 0 && strpbrk(one, "#") == NULL) {
		abort(); /* two different filters without '#' cannot cover each other */
	}
	if (filters_parse(one, &filters)) {
		filters_allow_subscription(&filters, two);
		filters_match(&filters, two);
	}
	filters_free(&filters);
	topic_is_control(one);
	identity_name_is_valid(one);
	identity_owns_client_id(one, two);
	if (strlen(shown_text(&(struct keyring){.count = 0}, two, shown, sizeof shown)) >= sizeof shown) {
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 2);

	if (text == NULL) {
		return 0;
	}
	memcpy(text, data, size);
	text[size] = text[size + 1] = '\0';
	check(text, text + strlen(text) + 1);
	free(text);
	return 0;
}
