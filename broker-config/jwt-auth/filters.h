/* The lists of topic filters that a token grants. */
#ifndef NTPPOOL_FILTERS_H
#define NTPPOOL_FILTERS_H

#include <stdbool.h>
#include <stddef.h>

struct filters {
	size_t count;
	char **items; /* one allocation: the pointers, then the texts */
};

/* Reads a JSON array of strings. False when it is something else, holds an invalid filter or an escape (no filter of
 * ours needs one), or memory is short; then `*out` is empty. */
bool filters_parse(const char *json, struct filters *out);

void filters_free(struct filters *filters);

/* Whether a subscription to `asked` is granted. A shared one ("$share/group/filter") needs a grant of that form
 * ("$share/+/filter" stands for any group): who shares a subscription takes messages away from others. */
bool filters_allow_subscription(const struct filters *filters, const char *asked);

/* Whether one of the filters matches the topic. */
bool filters_match(const struct filters *filters, const char *topic);

#endif
