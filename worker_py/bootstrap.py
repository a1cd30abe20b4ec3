# Executed with `python -S -c`: makes the modules of the bundle (a descriptor, named first) importable.
def boot():
    import sys

    # Never the working directory: `-c` puts it in front, and nothing may be imported before it is gone.
    sys.path[:] = [entry for entry in sys.path if entry]
    import json
    import os
    from importlib.machinery import ModuleSpec

    class Bundle:
        """Finds and loads modules from memory; `get_source` gives tracebacks their lines."""

        def __init__(self, modules):
            self.modules = modules

        def find_spec(self, name, path=None, target=None):
            if name not in self.modules:
                return None
            file = self.modules[name][0]
            origin = "<snakebridge>/" + file.replace("snakebridge_worker/", "", 1)
            spec = ModuleSpec(name, self, origin=origin, is_package=file.endswith("/__init__.py"))
            spec.has_location = True
            return spec

        def create_module(self, spec):
            return None

        def exec_module(self, module):
            code = compile(self.modules[module.__name__][1], module.__spec__.origin, "exec", dont_inherit=True)
            exec(code, module.__dict__)

        def get_source(self, name):
            return self.modules[name][1]

    arguments, sys.argv = sys.argv[1:], [""]
    fd = int(arguments[0])
    size = os.fstat(fd).st_size
    text = bytearray()
    while len(text) < size:
        text += os.pread(fd, size - len(text), len(text))
    bundle = json.loads(text)
    sys.meta_path.insert(0, Bundle({name: tuple(module) for name, module in bundle.pop("modules").items()}))
    from snakebridge_worker import start

    start.main(bundle, arguments)


boot()
