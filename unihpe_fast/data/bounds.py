"""What no camera sees and no person does: numbers beyond are wrong units or damage, and one of them spoils every mean.

Readers refuse them, or take what has them for not known, and so does a prepared file when it is opened.
"""

LARGEST_PX = 1e6
# a kilometre, of joints and of cameras' places
LARGEST_MM = 1e6
# px: from less than a pixel to the radian to telescopes
LEAST_FOCAL, LARGEST_FOCAL = 1.0, 1e6
# coefficients of a lens' distortion
LARGEST_DISTORTION = 1e3
# frames a second, of cameras and of motion capture
LEAST_RATE, LARGEST_RATE = 0.5, 1e4
