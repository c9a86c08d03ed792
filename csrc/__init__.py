"""C++ sources, installed so that the torch extension can be compiled against the torch of the machine it runs on."""
