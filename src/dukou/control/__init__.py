"""The processes, and who may say what they serve.

`supervisor` starts, watches, drains and restarts workers, `replicas` model processes; `store` is what verbs have
changed and who did it; `admin` is the API for operators (`operations` are what it can do). Never on the path of a
request.
"""
