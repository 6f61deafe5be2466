from retrieval.video_index import VideoIndex as VideoIndex
