"""`perfsuite prove`: is somebody's kernel right, faster, near the limit, and does training get shorter with it?"""
