"""What a fleet is told and may ask over MQTT: topics, payloads and decisions, pure. ports/broker.py speaks to
the broker, reporting.py joins the two.
"""
