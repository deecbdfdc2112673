"""Tests of the plugin: `python3 -m unittest` in this folder."""
import sys
import unittest

sys.dont_write_bytecode = True
import hotbay
import plugin


class Greet(unittest.TestCase):
    def greet(self, name, **config):
        plugin.plugin.config = config
        return plugin.execute(name.encode(), None)

    def test_name_is_greeted(self):
        self.assertEqual(self.greet("Ada\n"), "Hello, Ada!")

    def test_greeting_is_configurable(self):
        self.assertEqual(self.greet("Ada", greeting="Salut"), "Salut, Ada!")

    def test_empty_name_is_rejected(self):
        with self.assertRaises(hotbay.Error) as caught:
            self.greet(" ")
        self.assertEqual(caught.exception.code, 400)


if __name__ == "__main__":
    unittest.main()
