#include "stamp.h"

#include <stdlib.h>
#include <strings.h>

static const char SENDER[] = "sender";

/* Since 2.1 an empty text is read as NULL. */
static const char *text_or_empty(const char *text)
{
	return text == NULL ? "" : text;
}

static bool copy_string(const mosquitto_property *from, int identifier, mosquitto_property **to)
{
	char *text = NULL;
	bool good = mosquitto_property_read_string(from, identifier, &text, false) != NULL &&
	            mosquitto_property_add_string(to, identifier, text_or_empty(text)) == MOSQ_ERR_SUCCESS;

	free(text);
	return good;
}

static bool copy_binary(const mosquitto_property *from, int identifier, mosquitto_property **to)
{
	void *bytes = NULL;
	uint16_t length = 0;
	bool good = mosquitto_property_read_binary(from, identifier, &bytes, &length, false) != NULL &&
	            mosquitto_property_add_binary(to, identifier, bytes, length) == MOSQ_ERR_SUCCESS;

	free(bytes);
	return good;
}

static bool copy_byte(const mosquitto_property *from, int identifier, mosquitto_property **to)
{
	uint8_t value = 0;

	return mosquitto_property_read_byte(from, identifier, &value, false) != NULL &&
	       mosquitto_property_add_byte(to, identifier, value) == MOSQ_ERR_SUCCESS;
}

static bool add_pair(mosquitto_property **to, const char *name, const char *value)
{
	return mosquitto_property_add_string_pair(to, MQTT_PROP_USER_PROPERTY, name, value) == MOSQ_ERR_SUCCESS;
}

static bool copy_pair(const mosquitto_property *from, mosquitto_property **to)
{
	char *name = NULL, *value = NULL;
	bool good = mosquitto_property_read_string_pair(from, MQTT_PROP_USER_PROPERTY, &name, &value, false) != NULL;

	if (good && strcasecmp(text_or_empty(name), SENDER) != 0) {
		good = add_pair(to, text_or_empty(name), text_or_empty(value));
	}
	free(name);
	free(value);
	return good;
}

/* A message keeps only these five properties of its PUBLISH packet. */
static bool copy(const mosquitto_property *from, mosquitto_property **to)
{
	int identifier = mosquitto_property_identifier(from);

	switch (identifier) {
	case MQTT_PROP_CONTENT_TYPE:
	case MQTT_PROP_RESPONSE_TOPIC:
		return copy_string(from, identifier, to);
	case MQTT_PROP_CORRELATION_DATA:
		return copy_binary(from, identifier, to);
	case MQTT_PROP_PAYLOAD_FORMAT_INDICATOR:
		return copy_byte(from, identifier, to);
	case MQTT_PROP_USER_PROPERTY:
		return copy_pair(from, to);
	default:
		return true;
	}
}

/* Returns the list that is to replace the given one, or NULL if memory is short. Before 2.1 the broker has no function
 * that removes one property from a list, so the others are copied. */
static mosquitto_property *stamped_copy(const mosquitto_property *given, const char *name)
{
	mosquitto_property *stamped = NULL;
	bool good = true;

	for (; good && given != NULL; given = mosquitto_property_next(given)) {
		good = copy(given, &stamped);
	}
	if (!good || !add_pair(&stamped, SENDER, name)) {
		mosquitto_property_free_all(&stamped);
	}
	return stamped;
}

/* A name that cannot be read counts as forged: copying the list then fails, too. */
static bool is_forged(const mosquitto_property *property)
{
	char *name = NULL;

	if (mosquitto_property_identifier(property) != MQTT_PROP_USER_PROPERTY) {
		return false;
	}
	bool forged =
		mosquitto_property_read_string_pair(property, MQTT_PROP_USER_PROPERTY, &name, NULL, false) == NULL ||
		strcasecmp(text_or_empty(name), SENDER) == 0;

	free(name);
	return forged;
}

bool stamp_sender(mosquitto_property **properties, const char *name)
{
	const mosquitto_property *property = *properties;

	while (property != NULL && !is_forged(property)) {
		property = mosquitto_property_next(property);
	}
	/* The usual case: extend the broker's list. */
	if (property == NULL) {
		return add_pair(properties, SENDER, name);
	}
	mosquitto_property *given = *properties, *stamped = stamped_copy(given, name);

	if (stamped == NULL) {
		return false;
	}
	*properties = stamped;
	if (!broker_frees_replaced_properties()) {
		mosquitto_property_free_all(&given);
	}
	return true;
}
