/* Topic filters: whether one matches a topic, and whether one covers another. Pure. */
#ifndef NTPPOOL_TOPIC_H
#define NTPPOOL_TOPIC_H

#include <stdbool.h>
#include <stddef.h>

/* Whether '+' and '#' occur only where MQTT 5 (4.7.1) allows them: as a whole level, '#' only as the last one. */
bool topic_filter_is_valid(const char *filter);

/* Whether `granted` matches every topic that `requested` matches. Both must be valid filters. The result may be wrongly
 * false ("+/#" matches all that "#" does), but never wrongly true. */
bool topic_filter_covers(const char *granted, const char *requested);

/* Whether the valid filter matches the topic. A text that is empty or contains wildcards is not a topic, and matches no
 * filter. */
bool topic_filter_matches(const char *filter, const char *topic);

/* Splits "$share/<group>/<inner>". Returns false if the filter has another form, group or inner is empty, or the group
 * contains a wildcard. */
bool topic_split_shared(const char *filter, const char **group, size_t *group_length, const char **inner);

/* Whether the filter begins like a shared one, well-formed or not. */
bool topic_is_shared(const char *filter);

/* Whether this is a topic of control commands: /{env}/control/# or /{env}/monitors/control/#. */
bool topic_is_control(const char *topic);

/* Whether this is the topic of revocations, /{env}/control/broker/revocations: they are control commands, too. */
bool topic_is_revocations(const char *topic);

/* Whether this is the status topic of that name: /{env}/monitors/status/{name}/status. */
bool topic_is_status_of(const char *topic, const char *name);

#endif
