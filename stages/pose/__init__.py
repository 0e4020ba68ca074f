"""The library that the stages share. CONTRIBUTING.md lists its rooms and what an edit reruns.

Letters in shapes: B batch, N people, K keypoints, H W heatmap, h w input, C channels, D embedding.
"""
