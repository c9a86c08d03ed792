def forward(*a):
    raise NotImplementedError
backward = forward
