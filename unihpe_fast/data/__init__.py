"""From datasets to training batches.

A source (sources/) yields `Sample`s, one person in one frame (records.py), from files that formats/ parses;
crop_photos.py cuts their photographs, or render/ draws pictures of those that have none; store_writer.py writes a
prepared file, which store.py reads and check.py looks over; loader.py makes `Batch`es of several such files in the
order of sampling.py, augmented by augment.py and put together by collate.py. camera.py, skeleton.py, joint_sets.py and
bbox.py hold the conventions that all of them share.
"""
