/* Fuzzes the parsers of revocations: an input is a message, and the text of the file. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "order.h"
#include "revocations.h"

/* When the file was written and is read. */
#define FILE_TIME 100000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_message(const uint8_t *data, size_t size)
{
	struct order order;

	if (order_parse(data, size, &order) && (!identity_name_is_valid(order.name) || order.issued_until < 0)) {
		abort();
	}
}

static void check_file(const uint8_t *data, size_t size)
{
	struct revocations revocations = {.count = 0};
	char *text = malloc(size + 1);

	if (text == NULL) {
		return;
	}
	memcpy(text, data, size);
	text[size] = '\0';
	revocations_parse(&revocations, text, FILE_TIME, FILE_TIME);
	for (size_t i = 0; i < revocations.count; i++) {
		const struct revocation *one = &revocations.items[i];

		if (!identity_name_is_valid(one->name) || one->until > FILE_TIME + REVOCATION_AHEAD_SECONDS ||
		    one->until < FILE_TIME - REVOCATION_SECONDS - REVOCATION_AHEAD_SECONDS ||
		    !revocations_refuse(&revocations, one->name, one->until, FILE_TIME) ||
		    revocations_refuse(&revocations, one->name, one->until + 1, FILE_TIME)) {
			abort();
		}
	}
	revocations_free(&revocations);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* A copy of exactly this size, so that the sanitizer sees reads beyond it. */
	uint8_t *copy = malloc(size == 0 ? 1 : size);

	if (copy != NULL) {
		memcpy(copy, data, size);
		check_message(copy, size);
	}
	free(copy);
	check_file(data, size);
	return 0;
}
